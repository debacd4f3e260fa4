"""Published benchmarks: lm-eval tasks from a folder, run by its API and offline.

Task files are read as plain YAML, so nothing in them is imported or run. Their templates are rendered
and their patterns searched in processes with bounds (`task_templates`, `task_patterns`), and their
metrics are lm-eval's own.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.contracts.recipe import Harness
from components.errors import UserError, one_line
from components.evaluate.task_patterns import bounded_patterns
from components.evaluate.task_templates import bounded_templates
from components.runtime.context import Context
from components.storage.sources import local_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TaskDocument = dict[str, Any]
"""A task file of lm-eval: key → value, as YAML has it."""

# Any other name would be a data set of the hub, or a script that loading it runs.
FORMATS = ("json", "csv", "parquet", "text")
"""Loaders of data sets that only read files."""
CODE_KEYS = frozenset({"include", "class", "use_prompt", "custom_dataset"})
"""Keys by which a task file has another file read, whose tags are functions to be imported."""


def folder_of(section: Harness, context: Context) -> Path:
    """Return the local folder of the task files. Raises UserError if there is none."""
    return local_folder(section.folder, context.environment, context.scratch)


def digest_of_folder(folder: Path) -> str:
    """Return the SHA-256 over names and bytes of all files below a folder, in hex."""
    folder_hash = hashlib.sha256()
    files = [entry for entry in folder.rglob("*") if entry.is_file()]
    for path in sorted(files):
        name = path.relative_to(folder).as_posix()
        # The zero byte ends the name: without it a name and a content could trade characters.
        folder_hash.update(name.encode() + b"\0")
        with path.open("rb") as file:
            folder_hash.update(hashlib.file_digest(file, "sha256").digest())
    return folder_hash.hexdigest()


def read_tasks(folder: Path, names: Iterable[str]) -> list[TaskDocument]:
    """Return the named tasks as lm-eval's inline configurations, with absolute paths of their data.

    Args:
        folder: Folder of the task files.
        names: Names of tasks (key `task` of a file).

    Raises:
        UserError: A task is missing or defined twice, is no plain YAML mapping, or its data is not
            in files of this folder.
    """
    documents: dict[str, tuple[Path, TaskDocument]] = {}
    for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        document = _document(path)
        name = document.get("task")
        if isinstance(name, str):
            if name in documents:
                first_path, _ = documents[name]
                raise UserError(
                    f"evaluate.harness: {path} and {first_path} are both task {name!r}; rename one"
                )
            documents[name] = (path, document)
    tasks = []
    for name in names:
        if name not in documents:
            raise UserError(
                f"evaluate.harness: no task {name!r} in {folder} "
                f"(there are: {', '.join(documents) or 'none'}); correct evaluate.harness.tasks"
            )
        path, document = documents[name]
        tasks.append(_offline(folder, path, document))
    return tasks


def run_harness(
    context: Context,
    section: Harness,
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
) -> dict[str, dict[str, float]]:
    """Return task → metric → value of a loaded model. Deterministic: fixed seeds, no bootstrap.

    Args:
        context: Scratch folder.
        section: Names of the tasks and the limit of questions.
        folder: Folder of the task files.
        model: A transformers model.
        tokenizer: Its tokenizer.
        batch_size: Questions per forward pass.

    Raises:
        UserError: A task cannot be used, or lm-eval is not installed.
    """
    tasks = read_tasks(folder, section.tasks)
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            f"evaluate.harness needs lm-eval, which is not installed here ({error})"
        ) from None
    context.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="harness-", dir=context.scratch) as cache:
        # The user's own cache may hold other data under the same name.
        for task in tasks:
            task["dataset_kwargs"]["cache_dir"] = cache
        wrapped = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            device=str(model.device),
        )
        require_known_metrics(tasks)
        with bounded_templates(), bounded_patterns():
            evaluation = lm_eval.simple_evaluate(
                model=wrapped,
                tasks=tasks,
                limit=section.limit,
                # Its standard errors are drawn at random, and nothing reads them.
                bootstrap_iters=0,
                log_samples=False,
                task_manager=TaskManager(include_defaults=False),
            )
    return {name: _metrics(evaluation["results"][name]) for name in section.tasks}


def require_known_metrics(tasks: Iterable[TaskDocument]) -> None:
    """Raise UserError for a metric that lm-eval does not have."""
    import lm_eval.api.metrics  # noqa: F401 — it fills the registry.
    from lm_eval.api.registry import metric_registry

    # Any other name goes to the library `evaluate`, which loads and runs a script of that name: from
    # the hub, or from a path.
    known = set(metric_registry.keys())
    for task in tasks:
        for metric in task.get("metric_list") or ():
            settings = metric if isinstance(metric, dict) else {}
            name = settings.get("metric")
            if name not in known or settings.get("hf_evaluate"):
                raise UserError(
                    f"evaluate.harness: task {task['task']!r} has the metric {name!r}, which "
                    "lm-eval does not have itself; others are scripts that would be run"
                )


def _document(path: Path) -> TaskDocument:
    try:
        # Safe: lm-eval's own loader would run functions that a file names.
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"evaluate.harness: {path} is not a plain YAML task ({one_line(error)}); "
            "tags that run code are refused"
        ) from None
    if not isinstance(document, dict):
        raise UserError(f"evaluate.harness: {path} is not a YAML mapping")
    return document


def _offline(folder: Path, path: Path, document: TaskDocument) -> TaskDocument:
    """Return the task with absolute paths of its data files.

    Raises UserError if the task needs a network, another file or code.
    """
    if document.get("dataset_path") not in FORMATS or not CODE_KEYS.isdisjoint(
        document
    ):
        raise UserError(
            f"evaluate.harness: {path} needs `dataset_path` {', '.join(FORMATS)} "
            f"and none of `{'`, `'.join(sorted(CODE_KEYS))}`: "
            "tasks run without a network and without code of their own"
        )
    settings = document.get("dataset_kwargs")
    files = settings.get("data_files") if isinstance(settings, dict) else None
    if not isinstance(files, dict) or not files:
        raise UserError(
            f"evaluate.harness: {path} needs `dataset_kwargs: {{data_files: {{test: FILE}}}}`"
        )
    data_files: dict[str, str] = {}
    for split, name in files.items():
        # Resolved, so that neither `..` nor a link leads out of the folder.
        data_file = (folder / str(name)).resolve()
        if not data_file.is_relative_to(folder.resolve()) or not data_file.is_file():
            raise UserError(
                f"evaluate.harness: {path} names {name!r}, which is no file in {folder}"
            )
        data_files[str(split)] = str(data_file)
    return {**document, "dataset_kwargs": {"data_files": data_files}}


def _metrics(results: Mapping[str, object]) -> dict[str, float]:
    """Return metric → value of the finite numbers in one task's results."""
    metrics = {}
    for name, value in sorted(results.items()):
        # bool is a kind of int, and no metric.
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if math.isfinite(value):
            # lm-eval calls a metric `name,filter`; the filter `none` is the usual one.
            metrics[name.removesuffix(",none")] = float(value)
    return metrics
