"""The release ledger: its lines, and the openings of the prompts that releases are decided on.

Both are append-only: an object a line, numbered from 1 and written once. Nothing is changed or
deleted, so the newest line is in force whatever happened while it was written.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.contracts.recipe import Metric
from components.contracts.state import Frozen
from components.contracts.summaries.publish import Rival, Split

EVALUATION_IDS = "ledger/evaluation_ids.txt"
"""File of a publish receipt: ids of all prompts that models were measured on, one a line."""
TRAINING_IDS = "ledger/training_ids.txt"
"""File of a publish receipt: ids of all prompts that models were trained on, one a line."""
COMPARISON = "ledger/comparison.jsonl"
"""File of a publish receipt: a row a prompt, with the verdict on each model's answer."""
UTC_TIME = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"
"""Form of a time in the ledger."""
LEDGER_FOLDER = "ledger/"
"""Files of a publish receipt below this are for the ledger and no part of the published folder."""


class OpeningId(Frozen):
    """Name of an opening."""

    prompts: str
    """SHA-256 of the file of prompts."""
    number: int
    """Number among the openings of these prompts, from 1."""


class Opening(Frozen):
    """One use of a set of prompts to decide about a model, recorded before they are read."""

    schema_version: Literal[1] = 1
    alpha: float
    """Chance of a false release that these prompts may cost in all."""
    level: float
    """Highest p-value that proves a gain at this opening; spent unless a model is released."""
    model: str
    """Digest of the weights that are decided about."""
    rivals: tuple[str, ...]
    """Digests of the weights that they are compared with."""
    name: str
    """Name that the model would be released under."""
    run_id: str


class BaseModelLine(Frozen):
    """The model that a campaign began from."""

    source: str
    """`model.source` of the recipe; of a release with its number."""
    prepared: str
    """Ref of the prepare receipt."""
    digest: str
    """SHA-256 over its weights."""


class Approval(Frozen):
    """A person's consent to one release, written once, before its line of the ledger."""

    schema_version: Literal[1] = 1
    publish: str
    """Ref of the publish receipt."""
    publish_digest: str
    """Digest of that receipt."""
    version: str
    """Folder of the model below `models/<name>/`."""
    approved_by: str
    """User and machine."""
    at: str = Field(pattern=UTC_TIME)
    """Time, UTC."""


class Line(Frozen):
    """One line of the ledger of a name: a release, or the return to an earlier one."""

    schema_version: Literal[1] = 1
    name: str
    number: int
    """Number of the line, from 1."""
    action: Literal["release", "rollback"]
    returns_to: int | None = None
    """Line that a rollback returns to; None for a release."""
    version: str
    """Folder of the model below `models/<name>/`."""
    prefix: str
    """That folder in the store, with a slash at its end."""
    publish: str
    """Ref of the publish receipt."""
    publish_digest: str
    """Digest of that receipt."""
    weights: str
    """Digest of the weights as they were trained."""
    files: dict[str, str]
    """File of the published folder → SHA-256."""
    run_id: str
    state: str
    """Ref of the state whose champion this is."""
    recipe: str
    """Digest of the recipe."""
    base: BaseModelLine
    split: Split
    """Prompts that decided."""
    metric: Metric = "accuracy"
    score: float
    """By this metric, on them."""
    interval: tuple[float, float]
    """95 % interval of it."""
    rivals: tuple[Rival, ...] = ()
    """Models that it was compared with."""
    opening: OpeningId | None
    """Opening of the prompts."""
    predecessor: int | None
    """Line that was in force before; None for the first."""
    asked_by: str
    """User and machine that asked for the release."""
    at: str = Field(pattern=UTC_TIME)
    """Time, UTC."""
    approval: Approval | None = None
    """Consent to the release; None where the recipe asked for none, and in older lines."""
