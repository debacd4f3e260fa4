"""The model that answers instead of the champion, as a clean checkpoint with a receipt of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

from components.contracts.recipe import ModelSection, Recipe
from components.contracts.summaries import TeacherSummary
from components.contracts.summaries.prepare import StartTeacher
from components.runtime.attempts import Attempt
from components.runtime.campaign import checkpoint_name
from components.runtime.context import Context
from components.runtime.ledger import (
    RELEASE_SCHEME,
    fetch_release,
    receipt_of,
    release_in_force,
)
from components.runtime.receipts import Receipt, commit, read_summary
from components.storage.sources import model_version


def find_teacher(context: Context, attempt: Attempt, recipe: Recipe) -> Receipt | None:
    """Return the teacher receipt, with `model/`; None if the recipe names no teacher.

    It is of the run and not of the campaign: a run that goes on may have another teacher.

    Raises:
        UserError: The model is not there, or is none that can answer; as for a base model.
    """
    section = recipe.generate.teacher
    if section is None:
        return None
    context.scratch.mkdir(parents=True, exist_ok=True)
    source = section.source
    release = None
    if source.startswith(RELEASE_SCHEME):
        line = release_in_force(context, source, "generate.teacher.source")
        release = receipt_of(context, line)
        source = f"{RELEASE_SCHEME}{line.name}@{line.number}"
        version = release.digest
    else:
        # Other files under the same name are another teacher.
        version = model_version(source, context.environment, context.scratch)

    def work(folder: Path) -> TeacherSummary:
        return _materialise(context, source, release, folder)

    return commit(
        context,
        attempt,
        "teacher",
        config={"source": source, "version": version},
        inputs={},
        # Runs of all seeds share it.
        seed=0,
        work=work,
    )


def about_teacher(teacher: Receipt | None) -> StartTeacher | None:
    """Return what the start says of a teacher receipt."""
    if teacher is None:
        return None
    summary = read_summary(teacher, TeacherSummary)
    return StartTeacher(
        receipt=teacher.ref, source=summary.source, parameters=summary.parameters
    )


def _materialise(
    context: Context, source: str, release: Receipt | None, folder: Path
) -> TeacherSummary:
    """Write the teacher's checkpoint to `folder`; return its facts."""
    from components.modeling.base import materialise_base

    with tempfile.TemporaryDirectory(
        prefix="teacher-", dir=context.scratch
    ) as downloads_name:
        downloads = Path(downloads_name)
        address = source
        if release is not None:
            address = fetch_release(context, release, downloads).as_uri()
        model = ModelSection(source=address)
        target = folder / checkpoint_name(0)
        facts = materialise_base(model, 0, target, context.environment, downloads)
    return TeacherSummary(
        source=source,
        parameters=facts["parameters"],
        digest=facts["digest"],
        positions=facts["positions"],
    )
