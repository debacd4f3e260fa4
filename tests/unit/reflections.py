"""A round that went well in everything, for tests of what reflection says of another."""

from __future__ import annotations

from typing import Any

from components.contracts.state import base_plan
from components.contracts.summaries.evaluate import Estimate
from components.decide.gate import Comparison
from components.decide.reflection.evidence import Evidence
from components.measures import Scores, measure_of
from components.statistics import wilson_interval
from tests.unit.crafted import PLAN, recipe_of, select_summary, train_summary


def scored(counts: dict[str, tuple[int, int]]) -> Scores:
    """Scores of slice → (right answers, prompts)."""
    estimates = {}
    for name, (right, total) in counts.items():
        low, high = wilson_interval(right, total)
        estimates[name] = Estimate(value=right / total, low=low, high=high, n=total)
    return Scores(measure_of("accuracy"), estimates)


TRAIN: dict[str, Any] = {
    "steps": 200,
    "best_step": 190,
    "first_loss": 0.9,
    "final_loss": 0.21,
    "first_dev_loss": 0.8,
    "best_dev_loss": 0.30,
    "final_dev_loss": 0.302,
    "stopped_early": False,
    "skipped_steps": 0,
}
SELECT: dict[str, Any] = {
    "generated": 4000,
    "accepted": 1200,
    "dropped": {"duplicate": 900, "verifier": 1900},
    "prompts": 1000,
    "prompts_accepted": 700,
    "distinct_share": 0.6,
}
NO_SAMPLES: dict[str, Any] = {
    "generated": 0,
    "accepted": 0,
    "acceptance": None,
    "dropped": {},
    "prompts": 0,
    "prompts_accepted": 0,
    "distinct_share": None,
    "mean_answer_tokens": None,
    "finished_share": None,
}
"""The first mix, or a weak round in which nothing was sampled."""
SETTLED = [0.9 * 0.9**step + 0.2 for step in range(200)]
LORA = recipe_of(train={"lora": {"rank": 4, "max_rank": 12, "max_unfrozen_layers": 3}})
SUPERVISED = PLAN.model_copy(update={"training": "supervised"})
ADAPTED = PLAN.model_copy(update={"lora": base_plan(LORA).lora})
EQUAL = Comparison(pairs=500, wins=20, losses=18, p_value=0.44, level=0.0125)


def evidence(**changes: Any) -> Evidence:
    """A round that went well in everything but was not promoted."""
    common: dict[str, Any] = {
        "recipe": recipe_of(),
        "round": 2,
        "verdict": "rejected",
        "plan": PLAN,
        "train": TRAIN,
        "losses": SETTLED,
        "finished_share": 0.99,
        "candidate": scored({"": (300, 500)}),
        "select": SELECT,
        "comparison": EQUAL,
    }
    evidence_parts = {**common, **changes}
    evidence_parts["train"] = train_summary(**evidence_parts["train"])
    evidence_parts["select"] = select_summary(**evidence_parts["select"])
    return Evidence(**evidence_parts)
