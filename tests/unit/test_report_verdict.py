"""The report says first whether the target was met, whether to release, and what comes next."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from components.contracts.recipe import Metric
from components.contracts.rows import Prompt, Result
from components.contracts.summaries.evaluate import Estimate
from components.contracts.summaries.publish import Rival
from components.errors import Corrupt, RatchetError, Transient, UserError
from components.report.advice import may_release, next_step
from components.report.answers import compared_answers
from components.report.page import build_page
from components.report.runs import load_run
from components.report.views import RunView
from components.runtime.context import Context
from components.runtime.receipts import Receipt
from tests.unit.crafted import ask, store
from tests.unit.handmade import HOSTILE, Campaign, whole_campaign
from tests.unit.report_pages import first_screen, page_of, tables_of


def test_the_page_says_in_a_sentence_whether_the_target_was_met(page: str) -> None:
    page = page.replace("\u00a0", " ")
    course = "from the base model&#39;s 2.0 % over 41.0 % after round 0 to 93.0 % (goal 90.0 %)"
    assert f"Target met: validation accuracy went {course}" in page
    assert "the champion is round 3 of 3" in page
    result = "On the test split, which decided nothing, accuracy is 50.0 % (95 % interval 40.0 % to 60.0 %)"
    assert f"{result}: the goal is not proved there" in page


def test_the_first_screen_has_both_models_on_test_with_intervals(page: str) -> None:
    words = first_screen(page)
    before = (
        "What you came with 5.0 % [0.9–23.6] base model: accuracy on 20 test prompts"
    )
    assert before in words
    assert (
        "What you have now 50.0 % [40.0–60.0] round 3: accuracy on 20 test prompts"
        in words
    )


RELEASED = {"target_met": True, "released": True, "new_prompts_due": False}
REFUSED = {
    "target_met": False,
    "released": False,
    "why": "not proved better than release 1: 0",
}


@pytest.mark.parametrize(
    ("published", "state", "release", "following"),
    [
        (
            RELEASED,
            {"stop": "target"},
            "Yes: by-hand v1 is released (proved better",
            "Use it.",
        ),
        (
            {**RELEASED, "target_met": False},
            {"stop": "budget"},
            "Yes: by-hand v1 is released (proved better",
            "Raise `decide.budget`, and go on with `--resume-from`",
        ),
        (
            REFUSED,
            {"stop": "max_rounds"},
            "No: not proved better than release 1: 0.",
            "Raise `decide.max_rounds`",
        ),
        (
            {**REFUSED, "new_prompts_due": True},
            {"stop": "patience"},
            "No: not proved better than release 1",
            "Give new test prompts",
        ),
        (
            REFUSED,
            {"stop": "patience", "champion_round": None, "champion": "prepare/base"},
            "No: ",
            "Give more validation rows: with these, only a gain of 12.3 points or more",
        ),
        (REFUSED, {"stop": "patience"}, "No: ", "Look at the lost answers"),
        (REFUSED, {"stop": "alarm"}, "No: ", "Read the alarms of the last two rounds"),
        (REFUSED, {"stop": "weak"}, "No: ", "Too few samples were accepted"),
        (
            None,
            {"stop": "target"},
            "Not yet: `publish` has not",
            "Start the same command again",
        ),
        (
            None,
            {"stop": None},
            "Not yet: the run is not finished.",
            "Wait. If it was stopped",
        ),
    ],
)
def test_the_first_screen_says_whether_to_release_and_what_comes_next(
    view: RunView,
    published: dict[str, Any] | None,
    state: dict[str, Any],
    release: str,
    following: str,
) -> None:
    assert view.publication is not None
    assert view.state is not None
    view = dataclasses.replace(
        view,
        publication=view.publication.model_copy(update=published)
        if published
        else None,
        state=view.state.model_copy(update=state),
        receipts={
            ref: one.model_copy(
                update={"summary": {**one.summary, "smallest_gain": 0.123}}
            )
            if one.step == "start"
            else one
            for ref, one in view.receipts.items()
        },
    )
    assert may_release(view).startswith(release)
    assert next_step(view).startswith(following)


@pytest.mark.parametrize(
    ("error", "following"),
    [
        (
            UserError("no such file"),
            "Mend what train-r1 says below, and start the same command",
        ),
        (Transient("the store is away"), "Just start the same command again"),
        (
            Corrupt("objects/ab is gone"),
            "Restore or delete what `ratchet verify by-hand-",
        ),
        (RatchetError("a bug"), "Find the cause of the error of train-r1 in its log"),
    ],
)
def test_after_a_failure_the_first_screen_says_what_helps(
    context: Context, error: RatchetError, following: str
) -> None:
    made = Campaign(context)
    made.prepare()
    made.round(0, 0.4, "promoted")
    made.fail("train", "train-r1", 1, error)
    failed = load_run(context, made.run_id)
    release = "No: train-r1 failed, and what was released before stays in force."
    assert may_release(failed) == release
    assert next_step(failed).startswith(following)


def evaluated_as(
    context: Context,
    prompts: Sequence[Prompt],
    measured: Sequence[Mapping[str, object]],
) -> Receipt:
    """An evaluation on test, with what was measured of each prompt's answer."""
    results = [
        Result(
            prompt_id=prompt.id,
            split="test",
            correct=True,
            text="",
            finished=True,
            num_tokens=1,
        ).model_copy(update=about)
        for prompt, about in zip(prompts, measured, strict=True)
    ]
    return store(context, "evaluate", {"results.jsonl": results}, {"of": str(measured)})


@pytest.mark.parametrize(
    ("metric", "field", "sign"),
    [
        ("perplexity", "loss", 1),
        ("brier", "label_error", 1),
        ("mean_score", "score", -1),
    ],
)
def test_answers_are_compared_by_the_measure_of_the_campaign(
    context: Context, metric: Metric, field: str, sign: int
) -> None:
    prompts = [ask(f"text {number}", "") for number in range(4)]

    def evaluated(*values: float) -> Receipt:
        return evaluated_as(context, prompts, [{field: value} for value in values])

    prepared = store(context, "prepare", {"splits/test.jsonl": prompts}, {})
    base = evaluated(0.5, 0.5, 0.5, 0.5)
    champion = evaluated(*(0.5 + sign * change for change in (-0.1, 0.0, 0.2, -0.2)))
    compared = compared_answers(context, prepared, base, champion, metric, 6)
    assert compared is not None
    assert (compared.num_prompts, compared.num_won, compared.num_lost) == (4, 2, 1)
    assert [pair.prompt for pair in compared.lost] == ["text 2"]


def test_answers_are_compared_by_the_classes_where_macro_f1_is_the_measure(
    context: Context,
) -> None:
    prompts = [ask(f"text {number}", "a") for number in range(3)]

    def evaluated(*predicted: str) -> Receipt:
        classes = [{"label": "a", "predicted": name} for name in predicted]
        return evaluated_as(context, prompts, classes)

    prepared = store(context, "prepare", {"splits/test.jsonl": prompts}, {})
    compared = compared_answers(
        context, prepared, evaluated(*"bab"), evaluated(*"aba"), "macro_f1", 6
    )
    assert compared is not None
    assert (compared.num_won, compared.num_lost) == (2, 1)


def test_answers_before_and_after_stand_side_by_side(context: Context) -> None:
    page = page_of(context, whole_campaign(context, text=HOSTILE))
    part = page.split("Answers before and after")[1].split("<h2>")[0]
    assert (
        "Of 20 test prompts the champion does 18 better than the base model, and 1 worse."
        in part
    )
    lost, won = part.split("1 of 1 lost")[1].split("6 of 18 won")
    row = 'reverse 00019</span><span class="mono" data-label="expected">19</span>'
    assert row in lost
    assert "no idea 19</span>" in lost
    assert won.count('data-label="champion">&lt;script&gt;') == 6


def test_a_model_that_waits_for_approval_has_a_page_for_the_one_who_approves(
    view: RunView,
) -> None:
    assert view.publication is not None
    assert view.base_evaluation is not None
    lost = Estimate(value=0.9, low=0.8, high=1.0, n=12)
    slices = {**view.base_evaluation.measured["test"], "length=9": lost}
    last = view.rounds[-1]
    assert last.evaluate is not None
    measured = {"test": {**slices, "length=9": lost.model_copy(update={"value": 0.25})}}
    champion = dataclasses.replace(
        last, evaluate=last.evaluate.model_copy(update={"measured": measured})
    )
    rival = Rival(
        kind="base",
        name="base model scratch",
        scores=lost,
        verdict="better",
        wins=18,
        losses=1,
        gain=0.85,
        p_value=0.001,
        level=0.025,
        why="18 to 1",
    )
    waiting = dataclasses.replace(
        view,
        publication=view.publication.model_copy(
            update={"needs_approval": True, "rivals": (rival,), "target_met": False}
        ),
        base_evaluation=view.base_evaluation.model_copy(
            update={"measured": {"test": slices}}
        ),
        rounds=(*view.rounds[:-1], champion),
    )
    page = build_page(waiting)
    assert "waiting for approval</span>" in page
    assert "May I release it? Yes, if you approve it" in first_screen(page)
    tables = tables_of(page)
    assert ["base model scratch", "90.0 %", "better", "18", "1"] in tables[0]
    assert ["length=9", "12", "90.0 %", "25.0 %"] in tables[1]
    assert "The goal of the recipe is not reached." in page
    assert (
        "1 of 20 test prompts (5.0 %) were answered better by the base model." in page
    )
    assert (
        f"ratchet approve {view.run_id} --version v1 --store {view.store}</code>"
        in page
    )
    assert "Published as" not in page
    # Once approved it is an ordinary page.
    assert "Before you approve" not in build_page(view)


def test_a_base_that_nothing_beat_is_compared_with_nothing(context: Context) -> None:
    made = Campaign(context)
    made.prepare()
    made.round(0, 0.02, "rejected", stop="patience")
    page = page_of(context, made)
    assert "Answers before and after" not in page
    assert "What you have now 5.0 % [0.9–23.6] still the base model" in first_screen(
        page
    )
