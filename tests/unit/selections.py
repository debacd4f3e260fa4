"""Scored samples made by hand and filtered as the select step does it, for tests."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.contracts.recipe import SelectSection
from components.contracts.rows import Dropped, Prompt, read_rows
from components.select.filter_chain import Account, filter_all
from components.select.filter_settings import FilterSettings
from components.select.scored_sample_file import ScoredSampleFile
from components.select.scored_samples import Outcome, ScoredSample, make_scored_samples
from tests.unit.crafted import say

LABEL_FREE = SelectSection(
    verifier=False, max_length_ratio=1000.0, minhash_threshold=1.0
)
"""Filters that look at no answer's truth, and let nearly every text through."""


def with_settings(**settings: object) -> SelectSection:
    """The same with other settings."""
    return SelectSection.model_validate({**LABEL_FREE.model_dump(), **settings})


def answers(prompt: Prompt, *texts: str) -> list[ScoredSample]:
    """Its samples, joined and counted."""
    return make_scored_samples(
        {prompt.id: prompt},
        [say(prompt, index, text) for index, text in enumerate(texts)],
    )


def account_of(
    samples: Sequence[ScoredSample], section: SelectSection, **settings: Any
) -> tuple[list[ScoredSample], list[Dropped], Account]:
    """What all filters keep and drop, with the account."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples_file = ScoredSampleFile(folder / "pass-0")
        samples_file.write(samples)
        with (folder / "dropped.jsonl").open("wb") as rejected:
            left, account = filter_all(
                samples_file, FilterSettings(section, folder, **settings), rejected
            )
        kept = [one for block in left.blocks() for one in block]
        dropped = list(read_rows(folder / "dropped.jsonl", Dropped))
        left.remove()
        assert [path.name for path in folder.iterdir()] == ["dropped.jsonl"], (
            "a filter left files behind"
        )
    return kept, dropped, account


def select(
    samples: Sequence[ScoredSample], section: SelectSection, **settings: Any
) -> Outcome:
    """What all filters keep and drop."""
    kept, dropped, _ = account_of(samples, section, **settings)
    return kept, dropped


def kept_texts(outcome: Outcome) -> list[str]:
    """Texts of the kept samples, in order."""
    return [one.text for one in outcome[0]]


def reasons(outcome: Outcome) -> dict[str, int]:
    """Reason → dropped samples."""
    return dict(Counter(row.reason for row in outcome[1]))
