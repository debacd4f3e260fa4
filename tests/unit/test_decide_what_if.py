"""Other settings over stored receipts: what the verdicts would have been, without writing anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.decide.what_if import in_words, what_if
from components.errors import UserError
from components.runtime.context import Context
from tests.unit.crafted import recipe_of
from tests.unit.decisions import Campaign, simple


@pytest.fixture
def campaign(context: Context) -> Campaign:
    """Rounds of 40, 46 (rejected), 60 (promoted) and 58 (rejected) right of 100."""
    made = Campaign(
        context,
        recipe_of(decide={"goal": {"threshold": 0.99}, "patience": 9, "max_rounds": 5}),
    )
    for right in (40, 46, 60, 58):
        made.round(simple(right))
    return made


def asked(
    campaign: Campaign, **overrides: Any
) -> list[tuple[int, str, str, str | None]]:
    answer = what_if(campaign.context, campaign.uri, overrides)
    return [(one.round, one.verdict, one.would_be, one.stop) for one in answer.rounds]


def test_its_own_settings_give_the_verdicts_that_were_given(campaign: Campaign) -> None:
    assert asked(campaign) == [
        (0, "promoted", "promoted", None),
        (1, "rejected", "rejected", None),
        (2, "promoted", "promoted", None),
        (3, "rejected", "rejected", None),
    ]


def test_a_lower_threshold_would_have_ended_it_earlier(campaign: Campaign) -> None:
    assert asked(campaign, threshold=0.55)[-1] == (2, "promoted", "promoted", "target")


def test_a_shorter_patience_would_have_ended_it_before_the_gain(
    campaign: Campaign,
) -> None:
    assert asked(campaign, patience=1)[-1] == (1, "rejected", "rejected", "patience")


def test_a_larger_alpha_changes_verdicts_and_says_what_nobody_knows(
    campaign: Campaign,
) -> None:
    answer = what_if(campaign.context, campaign.uri, {"alpha": 0.5})
    verdicts = ["promoted", "promoted", "promoted", "rejected"]
    assert [one.would_be for one in answer.rounds] == verdicts
    assert (
        answer.diverges_after,
        answer.champion_round,
        answer.would_be_champion_round,
    ) == (
        1,
        2,
        2,
    )
    assert (
        "14 prompts only the candidate got right" in answer.rounds[2].why
    )  # against round 1, the champion by then
    told = in_words(answer)
    assert "round 1  46.0 %  rejected -> promoted" in told
    assert (
        "From round 2 on the rounds that were carried out began from another model"
        in told
    )
    assert max(len(line) for line in told.splitlines()) <= 80


def test_settings_that_cannot_be_are_refused(campaign: Campaign) -> None:
    with pytest.raises(UserError, match="alpha"):
        asked(campaign, alpha=2.0)


@pytest.mark.process
def test_the_command_prints_json_and_writes_nothing(campaign: Campaign) -> None:
    root = Path(campaign.context.store.root.removeprefix("file://"))
    if not root.is_dir():
        root = Path(campaign.uri.removeprefix("file://").partition("/steps/")[0])
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    command = [
        sys.executable,
        "-m",
        "components.decide",
        "what-if",
        "--state",
        campaign.uri,
        "--alpha",
        "0.5",
        "--json",
    ]
    environment = {**os.environ, "RATCHET_CACHE": f"{root}-cache"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    document = json.loads(done.stdout)
    assert document["changed"] == {"alpha": 0.5}
    assert [one["would_be"] for one in document["rounds"]] == [
        "promoted",
        "promoted",
        "promoted",
        "rejected",
    ]
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before
