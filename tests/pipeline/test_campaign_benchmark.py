"""The benchmark of a campaign against the same loop by hand: a cut of it, and its arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.contracts.recipe_file import load_recipe
from components.modeling.encoding import Codec
from components.modeling.load import load_tokenizer
from tests.benchmarks.campaign import (
    CUT,
    RECIPE,
    both,
    comparison,
    overrides_of,
    work_of,
)
from tests.benchmarks.campaign_peer import HandLoop, draw, mix_groups
from tests.benchmarks.campaign_settings import LoopWork, PeerChoice, RoundEnd, read_choice
from tests.benchmarks.campaigns import REPOSITORY

pytestmark = pytest.mark.process


def work_of_the_cut(base: Path) -> LoopWork:
    """The work of the cut, seed 1."""
    return work_of(load_recipe(REPOSITORY / RECIPE, tuple(overrides_of(CUT, 1, base))))


def test_a_cut_of_the_comparison_runs_both_campaigns_on_the_same_rows(tmp_path: Path) -> None:
    ours, by_hand = both(tmp_path, CUT, 1)
    for rounds in (ours, by_hand):
        assert [one.round_number for one in rounds] == list(range(CUT.num_rounds + 1))
        seconds = [one.seconds for one in rounds]
        assert 0 < seconds[0] < seconds[-1]
        assert all(0 <= one.accuracy <= 1 for one in rounds)
    ratio, note = comparison(ours, by_hand)
    assert ratio > 0
    assert f"by hand {by_hand[0].accuracy:.3f} at" in note
    assert read_choice(tmp_path / "choice.json").micro_batch_size in (8, 16)
    # What the loop by hand asks and learns is what ours does, token for token.
    work = work_of_the_cut(tmp_path / "base")
    loop = HandLoop(tmp_path, work, PeerChoice())
    codec = Codec(load_tokenizer(tmp_path / "base"), work.system_prompt)
    lines = (tmp_path / "train.jsonl").read_text("utf-8").splitlines()
    for row in map(json.loads, lines[:20]):
        ids = loop.question_ids(row["prompt"])
        assert ids == codec.prompt_ids(row["prompt"])
        taught = loop.tokenizer.apply_chat_template(
            [*loop.messages(row["prompt"]), {"role": "assistant", "content": row["completion"]}],
        )["input_ids"]
        row_ids, _ = codec.row_ids(row["prompt"], row["completion"])
        assert taught[: len(row_ids)] == row_ids
        # The template writes a line break behind the end of a turn, which SFTTrainer teaches too.
        assert loop.tokenizer.decode(taught[len(row_ids) :]) == "\n"
    assert set(codec.end_ids) <= set(loop.end_ids)


def test_times_are_taken_at_the_accuracy_that_both_reach() -> None:
    ours = [RoundEnd(0, 100.0, 0.40), RoundEnd(1, 200.0, 0.62), RoundEnd(2, 300.0, 0.70)]
    by_hand = [RoundEnd(0, 150.0, 0.41), RoundEnd(1, 420.0, 0.61), RoundEnd(2, 700.0, 0.61)]
    ratio, note = comparison(ours, by_hand)
    assert ratio == 420 / 200
    assert note.startswith("to 0.610 on validation: ours 200 s, round 1, by hand 420 s, round 1")
    assert note.endswith("the loop does not reach the 0.700 of ours")
    ratio, note = comparison(by_hand, ours)
    assert ratio == 200 / 420
    assert note.endswith("ours does not reach the 0.700 of the loop")
    assert "does not reach" not in comparison(ours, ours)[1]


def test_rows_are_drawn_by_the_shares_of_the_recipe() -> None:
    work = work_of_the_cut(Path("base"))
    labelled = [(f"labelled {number}", "1") for number in range(5)]
    older = [(f"older {number}", "1") for number in range(50)]
    newest = [(f"newest {number}", "1") for number in range(10)]
    shares = [share for share, _ in mix_groups(labelled, older, newest, work)]
    assert shares == pytest.approx([0.3, 0.35, 0.35])
    shares = [share for share, _ in mix_groups(labelled, [], newest, work)]
    assert shares == pytest.approx([0.3, 0.7])
    rows = draw(mix_groups(labelled, older, newest, work), 20_000, 1)
    for name, share in (("labelled", 0.3), ("older", 0.35), ("newest", 0.35)):
        drawn = sum(question.startswith(name) for question, _ in rows) / len(rows)
        assert drawn == pytest.approx(share, abs=0.02)
