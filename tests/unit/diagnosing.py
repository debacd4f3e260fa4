"""Measures of rounds, and the causes that are found in such rounds."""

from __future__ import annotations

from typing import Any

from components.decide.reflection.diagnosis import diagnose
from components.decide.reflection.plan import Finding
from tests.unit.crafted import PLAN
from tests.unit.reflections import evidence


def names(**changes: Any) -> list[str]:
    return [finding.name for finding in diagnose(evidence(**changes))]


def the(name: str, **changes: Any) -> Finding:
    return next(
        finding for finding in diagnose(evidence(**changes)) if finding.name == name
    )


SOUND_MEASURES: dict[str, float] = {
    "first_loss": 0.9,
    "last_loss": 0.6,
    "peak_loss": 0.9,
    "loss_fall": 0.3,
    "loss_spikes": 0,
    "skipped_steps": 0,
    "above_dev": -0.1,
    "human_loss": 0.6,
    "human_loss_rise": -0.1,
    "dev_loss": 0.6,
    "epochs": 3.0,
    "same_answers": 0.7,
    "finished_share": 1.0,
    "runs_on": 0.0,
    "cut_short": 0.0,
    "passed": 0.5,
    "agreement": 0.8,
    "refused_agreement": 0.5,
    "passed_agreement": 0.9,
    "majority_passed": 0.6,
    "majority_expected": 0.6,
    "majority_prompts": 1000,
    "verifier_z": 0.0,
    "disputed": 0.05,
    "labelled_weight": 0.5,
    "repeated": 0.01,
    "repeated_labelled": 0.01,
    "contaminated": 0.0,
    "answer_shift": 0.1,
    "accuracy": 0.6,
    "accepted": 1200,
}


def measured(**changes: float) -> dict[str, float]:
    return {**SOUND_MEASURES, **changes}


HOT = PLAN.model_copy(update={"temperature": 1.6})
