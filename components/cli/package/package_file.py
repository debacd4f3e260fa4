"""A compiled pipeline, read from its YAML text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from components.canonical import digest_of
from components.cli.json_documents import Json, nested
from components.errors import UserError


class Package:
    """A compiled pipeline: its tasks, components, executors and Kubernetes settings."""

    def __init__(self, text: str) -> None:
        """Parse a package. Raises UserError if the text is no compiled pipeline."""
        documents = _yaml_documents(text)
        is_pipeline = bool(documents) and isinstance(documents[0], dict)
        if not is_pipeline or "pipelineInfo" not in documents[0]:
            raise UserError(
                "not a compiled pipeline; make one by `compile RECIPE -o FILE`"
            )
        self.text = text
        self.spec: Json = documents[0]
        # KFP puts what is for Kubernetes alone into a second YAML document.
        platform = documents[1] if len(documents) > 1 else None
        self.platform: Json = platform or {}
        self.components: Json = nested(self.spec, "components")
        self.executors: Json = nested(self.spec, "deploymentSpec", "executors")
        kubernetes = nested(self.platform, "platforms", "kubernetes")
        self.settings: Json = nested(kubernetes, "deploymentSpec", "executors")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what the package says; comments and the order of keys do not count."""
        # KFP writes maps in an order that differs from process to process: the text is no measure.
        return digest_of([self.spec, self.platform])

    @property
    def name(self) -> str:
        """Name of the pipeline."""
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def parameters(self) -> Json:
        """The pipeline's own parameters: name → definition."""
        definitions = nested(self.spec, "root", "inputDefinitions")
        parameters: Json = nested(definitions, "parameters")
        return parameters

    def levels(self) -> Iterator[tuple[str, Json]]:
        """Yield (name, dag) of the root and of every component that is made of tasks."""
        components = {"root": nested(self.spec, "root"), **self.components}
        for name, component in components.items():
            if "dag" in component:
                yield name, component["dag"]

    def tasks(self) -> Iterator[tuple[str, Json, Json]]:
        """Yield (name, task, its siblings and itself) on all levels."""
        for _, dag in self.levels():
            siblings = nested(dag, "tasks")
            for name, task in siblings.items():
                yield name, task, siblings

    def component(self, task: Json) -> Json:
        """Return the component that a task is an instance of."""
        component: Json = self.components.get(task["componentRef"]["name"], {})
        return component

    def container(self, task: Json) -> Json | None:
        """Return the container that a task runs; None for a task that is made of tasks."""
        label = self.component(task).get("executorLabel")
        if not label:
            return None
        container: Json | None = self.executors.get(label, {}).get("container")
        return container

    def containers(self) -> Iterator[tuple[str, Json]]:
        """Yield (executor's name, container) of every executor that runs a container."""
        for name, executor in self.executors.items():
            if "container" in executor:
                yield name, executor["container"]


def read_package(path: Path) -> Package:
    """Return the compiled pipeline in a file. Raises UserError."""
    try:
        return Package(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _yaml_documents(text: str) -> list[Any]:
    # 63 kB take 1.0 s in the Python loader and 0.1 s in libyaml, which not every PyYAML has.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return list(yaml.load_all(text, Loader=loader))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"not YAML ({reason})") from None
