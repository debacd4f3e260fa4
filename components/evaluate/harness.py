"""lm-eval tasks from a folder, by its API and offline: the models of a campaign on other people's
questions.

Task files are read as plain YAML, so nothing in them is imported or run. Their prompts are Jinja
templates, which lm-eval renders: take task files from where you would take code.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from components.contracts.recipe import Harness
from components.errors import UserError
from components.runtime.context import Context
from components.storage.sources import local_folder

FORMATS = ("json", "csv", "parquet", "text")
"""Loaders of data sets that read files and nothing else."""


def folder_of(section: Harness, context: Context) -> Path:
    """The local folder of the task files. Raises UserError if there is none."""
    return local_folder(section.folder, context.environment, context.scratch)


def digest_of_folder(folder: Path) -> str:
    """SHA-256 over names and bytes of all files below it: an edited task is new work."""
    state = hashlib.sha256()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        state.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            state.update(hashlib.file_digest(file, "sha256").digest())
    return state.hexdigest()


def read_tasks(folder: Path, names: Iterable[str]) -> list[dict[str, Any]]:
    """The named tasks as lm-eval's inline configurations, with absolute paths of their data.

    Raises UserError for a task that is not there or twice there, that is no plain YAML mapping, or
    whose data is not in files of this folder.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        document = _document(path)
        name = document.get("task")
        if isinstance(name, str):
            if name in found:
                raise UserError(
                    f"evaluate.harness: {path} and {found[name][0]} are both task {name!r}; rename one"
                )
            found[name] = (path, document)
    tasks = []
    for name in names:
        if name not in found:
            raise UserError(
                f"evaluate.harness: no task {name!r} in {folder} (there are: {', '.join(found) or 'none'}); correct "
                "evaluate.harness.tasks"
            )
        tasks.append(_offline(folder, *found[name]))
    return tasks


def run_harness(
    context: Context, section: Harness, folder: Path, model: Any, tokenizer: Any, batch_size: int
) -> dict[str, dict[str, float]]:
    """Task → metric → number of one loaded model. Deterministic: fixed seeds, no bootstrap."""
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
        for task in tasks:
            task["dataset_kwargs"]["cache_dir"] = cache
        wrapped = HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=str(model.device)
        )
        done = lm_eval.simple_evaluate(
            model=wrapped,
            tasks=tasks,
            limit=section.limit,
            bootstrap_iters=0,
            log_samples=False,
            task_manager=TaskManager(include_defaults=False),
        )
    return {name: _numbers(done["results"][name]) for name in section.tasks}


def _document(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"evaluate.harness: {path} is not a plain YAML task ({why}); tags that run code are refused"
        ) from None
    if not isinstance(document, dict):
        raise UserError(f"evaluate.harness: {path} is not a YAML mapping")
    return document


def _offline(folder: Path, path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """The task with its data files made absolute."""
    if document.get("dataset_path") not in FORMATS or "include" in document or "class" in document:
        raise UserError(
            f"evaluate.harness: {path} needs `dataset_path` {', '.join(FORMATS)} and no `include` or `class`: tasks "
            "run without a network and without code of their own"
        )
    settings = document.get("dataset_kwargs")
    files = settings.get("data_files") if isinstance(settings, dict) else None
    if not isinstance(files, dict) or not files:
        raise UserError(
            f"evaluate.harness: {path} needs `dataset_kwargs: {{data_files: {{test: FILE}}}}`"
        )
    absolute = {}
    for split, name in files.items():
        place = (folder / str(name)).resolve()
        if not place.is_relative_to(folder.resolve()) or not place.is_file():
            raise UserError(
                f"evaluate.harness: {path} names {name!r}, which is no file in {folder}"
            )
        absolute[str(split)] = str(place)
    return {**document, "dataset_kwargs": {"data_files": absolute}}


def _numbers(results: dict[str, Any]) -> dict[str, float]:
    """lm-eval calls a metric `name,filter`; the filter `none` is the usual one."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in sorted(results.items())
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
