"""Prompts that the releases behind a base model have used: they keep their side of the splits."""

from __future__ import annotations

from dataclasses import dataclass

from components.contracts.releases import EVALUATION_IDS, TRAINING_IDS
from components.contracts.rows import Split
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch

_TAUGHT: tuple[Split, ...] = ("train", "unlabelled")
_MEASURED: tuple[Split, ...] = (
    "vault",
    "test",
    "validation",
    "audit",
    "retention",
    "dev_prompts",
    "dev",
)


@dataclass(frozen=True)
class EarlierPrompts:
    """Ids of the prompts of earlier campaigns."""

    measured: frozenset[str] = frozenset()
    """Models were chosen by them: a model that learns them would choose itself."""
    taught: frozenset[str] = frozenset()
    """The base has learned them: it would be measured on what it knows by heart."""

    def problem_in(self, split: Split, identity: str) -> str:
        """Return the reason why a prompt cannot be in a split, a short word; empty if it can."""
        if split in _TAUGHT and identity in self.measured:
            return "measured_before"
        if split in _MEASURED and identity in self.taught:
            return "trained_before"
        return ""


NO_EARLIER_PROMPTS = EarlierPrompts()


def earlier_prompts(context: Context, release: Receipt | None) -> EarlierPrompts:
    """Return the prompts that a release and those before it have used; none without a release."""
    if release is None:
        return NO_EARLIER_PROMPTS
    measured = (
        fetch(context, release, EVALUATION_IDS).read_text(encoding="utf-8").split()
    )
    taught = fetch(context, release, TRAINING_IDS).read_text(encoding="utf-8").split()
    return EarlierPrompts(frozenset(measured), frozenset(taught))
