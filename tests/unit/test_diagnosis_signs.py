"""Each cause comes first where its signs are, and says them in numbers."""

from __future__ import annotations

from typing import Any

import pytest

from components.decide.gate import Comparison
from components.decide.reflection.diagnosis import diagnose
from tests.unit.crafted import recipe_of
from tests.unit.diagnosing import HOT, SOUND_MEASURES, measured, names
from tests.unit.reflections import evidence


def test_a_sound_round_with_all_its_measures_has_no_cause() -> None:
    for verdict in ("rejected", "promoted"):
        assert names(measures=measured(), verdict=verdict) == []


LOST = Comparison(pairs=500, wins=10, losses=35, p_value=1.0, level=0.0125)
SIGNS: list[tuple[str, str | None, dict[str, Any]]] = [
    (
        "learning_rate_too_high",
        "learning_rate_down",
        {
            "measures": measured(
                first_loss=0.6, last_loss=2.0, peak_loss=3.1, human_loss_rise=1.2
            )
        },
    ),
    (
        "learning_rate_too_low",
        "learning_rate_up",
        {"measures": measured(same_answers=0.99, last_loss=0.6, loss_fall=0.01)},
    ),
    ("underfitting", "steps_up", {"measures": measured(epochs=0.2)}),
    ("optimizer_trouble", "learning_rate_down", {"measures": measured(loss_spikes=5)}),
    (
        "label_noise",
        "labelled_share_down",
        {"measures": measured(last_loss=1.1, above_dev=0.6)},
    ),
    (
        "duplicate_flood",
        "labelled_share_down",
        {"measures": measured(repeated=0.4, repeated_labelled=0.35)},
    ),
    (
        "duplicate_flood",
        "labelled_share_up",
        {"measures": measured(repeated=0.4, repeated_labelled=0.05)},
    ),
    (
        "temperature_too_high",
        "temperature_down",
        {
            "plan": HOT,
            "measures": measured(passed=0.2, agreement=0.4, majority_expected=0.6),
        },
    ),
    (
        "verifier_false_negatives",
        None,
        {
            "measures": measured(
                majority_passed=0.2, verifier_z=-15, refused_agreement=0.85
            )
        },
    ),
    (
        "verifier_too_lenient",
        "vote_share_up",
        {"measures": measured(majority_passed=0.99, verifier_z=15)},
    ),
    ("evaluation_contamination", None, {"measures": measured(contaminated=0.3)}),
    (
        "truncation",
        "answer_tokens_up",
        {"measures": measured(finished_share=0.5, cut_short=0.4)},
    ),
    ("stop_token_wrong", None, {"measures": measured(finished_share=0.2, runs_on=0.6)}),
    (
        "labelled_share_too_low",
        "labelled_share_up",
        {
            "comparison": LOST,
            "measures": measured(labelled_weight=0.25, answer_shift=0.5),
        },
    ),
]


@pytest.mark.parametrize(
    ("name", "asks", "signs"),
    SIGNS,
    ids=[f"{name}-{change}" for name, change, _ in SIGNS],
)
def test_each_cause_is_first_where_its_signs_are_and_says_them_in_numbers(
    name: str, asks: str | None, signs: dict[str, Any]
) -> None:
    first = diagnose(evidence(**signs))[0]
    assert (first.name, first.change) == (name, asks)
    assert any(character.isdigit() for character in first.evidence)
    assert first.measure in {*SOUND_MEASURES, "dev_rise", "distinct_share"}
    assert "nan" not in first.evidence


def test_a_strict_verifier_over_hard_prompts_is_not_called_wrong() -> None:
    unsure = measured(majority_passed=0.2, verifier_z=-15, refused_agreement=0.4)
    assert names(measures=unsure) == []
    assert (
        names(
            measures=measured(
                majority_passed=0.2,
                verifier_z=-15,
                refused_agreement=0.9,
                majority_prompts=9,
            )
        )
        == []
    )
    without = evidence(
        measures=measured(majority_passed=0.99, verifier_z=15),
        recipe=recipe_of(select={"verifier": False}),
    )
    assert diagnose(without) == []
