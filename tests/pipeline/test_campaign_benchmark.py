"""The benchmark of a campaign against the same loop by hand: same tokens, rows and arithmetic.

The whole of it: `python -m tests.benchmarks.campaign --cut`, two minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from components.contracts.recipe import ModelSection
from components.contracts.recipe_file import load_recipe
from components.modeling.base import materialise_base
from components.modeling.encoding import Codec
from components.modeling.load import load_tokenizer
from tests.benchmarks.campaign import (
    CUT,
    RECIPE,
    comparison,
    overrides_of,
    work_of,
)
from tests.benchmarks.campaign_peer import HandLoop, draw, mix_groups
from tests.benchmarks.campaign_settings import LoopWork, PeerChoice, RoundEnd
from tests.benchmarks.campaigns import REPOSITORY

ROWS = [
    ("What is 12 + 30 - 7?", "35"),
    ("Find the greatest common divisor of 12 and 18. Write only a number.", "6"),
    ("Anna's father is Ben. Who is Anna to Ben?\nAnswer in one word.", "daughter"),
    ("  Two blanks, and a line\n\nbreak: 3.5 * 2 =", " 7.0"),
]


def work_of_the_cut(base: Path) -> LoopWork:
    """The work of the cut, seed 1."""
    return work_of(load_recipe(REPOSITORY / RECIPE, tuple(overrides_of(CUT, 1, base))))


def test_the_loop_by_hand_asks_and_learns_what_ours_does_token_for_token(
    tmp_path: Path,
) -> None:
    source = load_recipe(REPOSITORY / RECIPE).model.source
    materialise_base(ModelSection(source=source), 0, tmp_path / "base", {}, tmp_path)
    work = work_of_the_cut(tmp_path / "base")
    loop = HandLoop(tmp_path, work, PeerChoice())
    codec = Codec(load_tokenizer(tmp_path / "base"), work.system_prompt)
    for prompt, completion in ROWS:
        assert loop.question_ids(prompt) == codec.prompt_ids(prompt)
        taught = loop.tokenizer.apply_chat_template(
            [*loop.messages(prompt), {"role": "assistant", "content": completion}],
        )["input_ids"]
        row_ids, _ = codec.row_ids(prompt, completion)
        assert taught[: len(row_ids)] == row_ids
        # The template writes a line break behind the end of a turn, which SFTTrainer teaches too.
        assert loop.tokenizer.decode(taught[len(row_ids) :]) == "\n"
    assert set(codec.end_ids) <= set(loop.end_ids)


def test_times_are_taken_at_the_accuracy_that_both_reach() -> None:
    ours = [
        RoundEnd(0, 100.0, 0.40),
        RoundEnd(1, 200.0, 0.62),
        RoundEnd(2, 300.0, 0.70),
    ]
    by_hand = [
        RoundEnd(0, 150.0, 0.41),
        RoundEnd(1, 420.0, 0.61),
        RoundEnd(2, 700.0, 0.61),
    ]
    ratio, note = comparison(ours, by_hand)
    assert ratio == 420 / 200
    assert note.startswith(
        "to 0.610 on validation: ours 200 s, round 1, by hand 420 s, round 1"
    )
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
