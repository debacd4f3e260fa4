"""The first screen of a report: before and after on test, whether to release, and what comes next."""

from __future__ import annotations

from dataclasses import dataclass

from components.contracts.state import ModelRecord, StopReason, model_name
from components.contracts.summaries import EvaluateSummary
from components.contracts.summaries.evaluate import Estimate
from components.measures import measure_of
from components.report.views import RunView
from components.report.words import start_of

SMALL_GAIN = 0.05
"""A gain that validation cannot prove although a person would see it: 5 points."""
_PASSING_FAULTS = ("Transient",)
_FAULTS_OF_INPUT = ("UserError", "OlderReceipt")
_DAMAGE = ("Corrupt", "Missing")
_GO_ON = "with `--resume-from` and the state that is named at the end of this page"
_WEAK = (
    "Too few samples were accepted to learn from: give easier prompts, more labelled rows or a "
    "stronger base. `ratchet samples --dropped` shows what the model said."
)
_AFTER_STOP: dict[StopReason, str] = {
    "target": "Set a higher `decide.goal.threshold`, and go on " + _GO_ON + ".",
    "patience": (
        "Look at the lost answers and at what the filters dropped; more rounds of the same data will "
        "not help. Give more labelled rows, or more prompts without answers."
    ),
    "max_rounds": "Raise `decide.max_rounds`, and go on " + _GO_ON + ".",
    "budget": "Raise `decide.budget`, and go on " + _GO_ON + ".",
    "alarm": (
        "Read the alarms of the last two rounds and mend their cause first: more rounds of the same "
        "kind would be rejected too."
    ),
    "weak": _WEAK,
}
"""Reason for the end of a campaign → what would make a better model."""


@dataclass(frozen=True)
class ModelOnTest:
    """One model on the test split, for the first screen."""

    title: str
    name: str
    score: str
    interval: str
    """Its 95 % interval in brackets; empty if it is not known."""
    num_prompts: int | None


def before_and_after(view: RunView) -> tuple[ModelOnTest, ModelOnTest] | None:
    """Return the base and the champion on the test split; None before the base is measured."""
    state = view.state
    if state is None or state.base is None or view.champion is None:
        return None
    before = _on_test(
        view, "What you came with", "base model", state.base, view.base_evaluation
    )
    name = model_name(state.champion_round)
    if state.champion_round is None:
        name = "still the base model"
    after = _on_test(
        view, "What you have now", name, view.champion, view.champion_evaluation
    )
    return before, after


def _on_test(
    view: RunView,
    title: str,
    name: str,
    record: ModelRecord,
    evaluation: EvaluateSummary | None,
) -> ModelOnTest:
    measure = measure_of(record.metric)
    estimate = _estimate(view, evaluation)
    if estimate is None:
        return ModelOnTest(title, name, measure.text(record.test_score), "", None)
    interval = measure.interval_text((estimate.low, estimate.high))
    return ModelOnTest(title, name, measure.text(estimate.value), interval, estimate.n)


def _estimate(view: RunView, evaluation: EvaluateSummary | None) -> Estimate | None:
    if evaluation is None or view.recipe is None:
        return None
    return evaluation.measured.get("test", {}).get(view.recipe.decide.goal.slice)


def may_release(view: RunView) -> str:
    """Return whether the model may be released, in a sentence."""
    if not view.tasks:
        return "No: nothing is known of this run."
    if view.failed:
        return f"No: {view.failed[-1].name} failed, and what was released before stays in force."
    publication = view.publication
    if publication is not None and view.waits_for_approval:
        return f"Yes, if you approve it: it is {publication.why}."
    if publication is not None and publication.released:
        by = ""
        if view.release is not None and view.release.approval is not None:
            by = f", approved by {view.release.approval.approved_by}"
        version = f"{publication.name} {publication.version}"
        return f"Yes: {version} is released{by} ({publication.why})."
    if publication is not None:
        return f"No: {publication.why}."
    if view.state is not None and view.state.stop:
        return (
            "Not yet: `publish` has not compared it with the base and the last release."
        )
    return "Not yet: the run is not finished."


def next_step(view: RunView) -> str:
    """Return what a person does next, in one or two sentences."""
    if not view.tasks:
        return "Read the log of prepare: it says why no task left a record."
    if view.failed:
        return _after_failure(view)
    publication = view.publication
    if publication is None:
        if view.state is not None and view.state.stop:
            return "Start the same command again: `publish` is all that is left."
        return "Wait. If it was stopped, start the same command again: finished steps are kept."
    if view.waits_for_approval:
        return (
            "Look at the risks and at the lost answers below; then `ratchet approve "
            f"{view.run_id} --version {publication.version}` releases it."
        )
    if view.recipe is not None and not view.recipe.publish.release:
        return (
            "This run was a trial. To release its champion, run the same recipe with "
            "`publish.release: true`: what is finished is not done again."
        )
    if publication.released and view.target_met:
        return "Use it. `ratchet try --compare` asks it and the base model the same prompts."
    if publication.new_prompts_due:
        return (
            f"Give new {publication.split} prompts: these have decided about so many models that "
            "they can hardly prove another gain."
        )
    return _for_a_better_model(view)


def _after_failure(view: RunView) -> str:
    failed = view.failed[-1]
    kind = failed.last.error_kind
    again = "start the same command again: finished steps are kept"
    if kind in _PASSING_FAULTS:
        return f"Just {again}. The fault of {failed.name} may have passed."
    if kind in _FAULTS_OF_INPUT:
        return f"Mend what {failed.name} says below, and {again}."
    if kind in _DAMAGE:
        return f"Restore or delete what `ratchet verify {view.run_id}` calls damaged, and {again}."
    return f"Find the cause of the error of {failed.name} in its log, mend it, and {again}."


def _for_a_better_model(view: RunView) -> str:
    state = view.state
    assert state is not None, "publish reads a state"
    improvement_rounds = [record for record in state.history if record.round]
    if improvement_rounds and all(record.weak for record in improvement_rounds):
        return _WEAK
    start = start_of(view)
    smallest_gain = start.smallest_gain if start is not None else None
    nothing_was_proved = state.champion_round is None and state.stop != "alarm"
    if nothing_was_proved and smallest_gain is not None and smallest_gain > SMALL_GAIN:
        return (
            "Give more validation rows: with these, only a gain of "
            f"{100 * smallest_gain:.1f} points or more can be proved."
        )
    return _AFTER_STOP[state.stop or "patience"]
