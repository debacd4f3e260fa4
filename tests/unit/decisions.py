"""Rounds of a campaign that the real decide decides, on made-up results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from components.contracts.recipe import Recipe
from components.contracts.rows import Prompt, Result
from components.contracts.state import Plan, State
from components.contracts.summaries import DecideSummary
from components.decide.step import DecideInputs, run
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_summary, receipt_uri
from tests.unit.crafted import (
    PLAN,
    all_wrong,
    evaluated,
    first_mix,
    prepare,
    results_of,
    select_summary,
    store,
    trained,
    with_base,
)

TRAIN_TOKENS, SAMPLE_TOKENS = 1000, 80


@dataclass
class Campaign:
    """Rounds of a campaign, each decided by the real step on made-up results."""

    context: Context
    recipe: Recipe
    plan: Plan = PLAN
    validation: tuple[Prompt, ...] = ()
    audit: tuple[Prompt, ...] = ()
    base: Sequence[Result] | None = None
    """Results of the base model; None: it gets no prompt right."""
    uri: str = ""
    receipts: list[Receipt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start = prepare(
            self.context,
            self.recipe,
            plan=self.plan.model_copy(update={"training": "supervised"}),
            validation=self.validation,
            audit=self.audit,
        )
        self.uri = receipt_uri(self.context, self.start)

    @property
    def state(self) -> State:
        return State.model_validate_json(
            fetch(self.context, self.receipts[-1], "state.json").read_bytes()
        )

    @property
    def card(self) -> str:
        return fetch(self.context, self.receipts[-1], "card.md").read_text()

    def inputs(
        self,
        results: Sequence[Result],
        *,
        train: dict[str, Any] | None = None,
        select: dict[str, Any] | None = None,
        **evaluation: Any,
    ) -> DecideInputs:
        """Receipts of the next round, with changes of the summaries."""
        number = len(self.receipts)
        if self.uri == receipt_uri(self.context, self.start):
            base = all_wrong(results) if self.base is None else self.base
            self.uri = with_base(self.context, self.start, base)
        candidate = trained(
            self.context, number, **{"final_loss": 0.2 - number / 1000, **(train or {})}
        )
        measured = evaluated(self.context, candidate, results, **evaluation)
        mix = (
            first_mix(self.context)
            if number == 0
            else self.mix(number, **(select or {}))
        )
        return DecideInputs(self.uri, mix, candidate, measured)

    def mix(self, number: int, **changes: Any) -> Receipt:
        """What a round trains on."""
        counts = {"shards": ("generate/0",), "tokens_sampled": SAMPLE_TOKENS, **changes}
        files: dict[str, list[Any]] = {"accepted.jsonl": [], "mix.jsonl": []}
        return store(
            self.context, "select", files, select_summary(round=number, **counts)
        )

    def round(self, results: Sequence[Result], **changes: Any) -> Receipt:
        """Decide the next round; its state is what the one after it begins from."""
        receipt = run(self.inputs(results, **changes), self.context)
        self.receipts.append(receipt)
        self.uri = receipt_uri(self.context, receipt)
        return receipt


def simple(right: int, count: int = 100) -> list[Result]:
    """Results where the first `right` prompts are right, so more right is strictly better."""
    return results_of({"": [place < right for place in range(count)]})


def told(receipt: Receipt) -> DecideSummary:
    """What decide says of a round."""
    return read_summary(receipt, DecideSummary)


def lengths(
    *right: int, split: Literal["dev", "validation", "test"] = "validation"
) -> list[Result]:
    """Results at lengths 8, 9, …, 100 prompts each, the given number right."""
    return results_of(
        {
            f"length={8 + n}": [place < own for place in range(100)]
            for n, own in enumerate(right)
        },
        split,
    )
