"""The report is one safe, small, self-contained page, whatever happened to the run."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

import pytest

from components.canonical import canonical_json
from components.contracts.recipe import Metric
from components.contracts.rows import Prompt, Result
from components.contracts.summaries.evaluate import Estimate
from components.contracts.summaries.publish import Rival
from components.errors import Corrupt, RatchetError, Transient, UserError
from components.report.advice import may_release, next_step
from components.report.answers import compared_answers
from components.report.page import build_page
from components.report.runs import load_run
from components.report.step import ReportInputs, run
from components.report.views import RunView
from components.runtime.context import Context
from components.runtime.receipts import Receipt
from components.storage import keys
from components.storage.store import open_store
from tests.conftest import context_in
from tests.unit.crafted import ask, store
from tests.unit.handmade import HOSTILE, RECIPE, Campaign, whole_campaign


def page_of(context: Context, made: Campaign) -> str:
    return build_page(load_run(context, made.run_id, examples=12))


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """A whole campaign, for the tests that only read it."""
    folder = tmp_path_factory.mktemp("campaign")
    context = context_in(folder, open_store((folder / "store").as_uri(), {}))
    return load_run(context, whole_campaign(context).run_id, examples=12)


@pytest.fixture(scope="module")
def page(view: RunView) -> str:
    """The page of that campaign."""
    return build_page(view)


class Elements(HTMLParser):
    """Names of all elements and values of all attributes that fetch or run something; ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        for name, value in attrs:
            if name.startswith("on") or name in ("src", "href", "xlink:href", "srcset", "action"):
                self.fetched.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def tables_of(page: str) -> list[list[list[str]]]:
    """The text of every cell of every table, row by row."""
    tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
    return [
        [cells_of(row) for row in re.findall(r"<tr.*?>(.*?)</tr>", table, re.DOTALL)]
        for table in tables
    ]


def cells_of(row: str) -> list[str]:
    return [
        html.unescape(re.sub(r"<.+?>", "", cell)).strip()
        for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)
    ]


def round_of(page: str, number: int) -> str:
    """The part of the page that is about one round."""
    return page.split(f"<h3>Round {number}</h3>")[1].split("</section>")[0]


def test_the_page_says_in_a_sentence_whether_the_target_was_met(page: str) -> None:
    page = page.replace("\u00a0", " ")
    course = "from the base model&#39;s 2.0 % over 41.0 % after round 0 to 93.0 % (goal 90.0 %)"
    assert f"Target met: validation accuracy went {course}" in page
    assert "the champion is round 3 of 3" in page
    result = "On the test split, which decided nothing, accuracy is 50.0 % (95 % interval 40.0 % to 60.0 %)"
    assert f"{result}: the goal is not proved there" in page


def first_screen(page: str) -> str:
    """The text of the page before its first section, in one line."""
    text = html.unescape(re.sub(r"<[^>]+>", " ", page.split("</style>")[1].split("</header>")[0]))
    # Code and text of a sentence are divided by tags.
    return re.sub(r" ([.,:])", r"\1", " ".join(text.split()))


def test_the_first_screen_has_both_models_on_test_with_intervals(page: str) -> None:
    words = first_screen(page)
    before = "What you came with 5.0 % [0.9–23.6] base model: accuracy on 20 test prompts"
    assert before in words
    assert "What you have now 50.0 % [40.0–60.0] round 3: accuracy on 20 test prompts" in words


RELEASED = {"target_met": True, "released": True, "new_prompts_due": False}
REFUSED = {"target_met": False, "released": False, "why": "not proved better than release 1: 0"}


@pytest.mark.parametrize(
    ("published", "state", "release", "following"),
    [
        (RELEASED, {"stop": "target"}, "Yes: by-hand v1 is released (proved better", "Use it."),
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
        (None, {"stop": "target"}, "Not yet: `publish` has not", "Start the same command again"),
        (None, {"stop": None}, "Not yet: the run is not finished.", "Wait. If it was stopped"),
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
        publication=view.publication.model_copy(update=published) if published else None,
        state=view.state.model_copy(update=state),
        receipts={
            ref: one.model_copy(update={"summary": {**one.summary, "smallest_gain": 0.123}})
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
        (UserError("no such file"), "Mend what train-r1 says below, and start the same command"),
        (Transient("the store is away"), "Just start the same command again"),
        (Corrupt("objects/ab is gone"), "Restore or delete what `ratchet verify by-hand-"),
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
    context: Context, prompts: Sequence[Prompt], measured: Sequence[Mapping[str, object]]
) -> Receipt:
    """An evaluation on test, with what was measured of each prompt's answer."""
    results = [
        Result(
            prompt_id=prompt.id, split="test", correct=True, text="", finished=True, num_tokens=1
        ).model_copy(update=about)
        for prompt, about in zip(prompts, measured, strict=True)
    ]
    return store(context, "evaluate", {"results.jsonl": results}, {"of": str(measured)})


@pytest.mark.parametrize(
    ("metric", "field", "sign"),
    [("perplexity", "loss", 1), ("brier", "label_error", 1), ("mean_score", "score", -1)],
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


def test_a_command_in_a_sentence_is_shown_as_code(page: str) -> None:
    assert "Use it. <code>ratchet try --compare</code> asks it" in page


def test_answers_before_and_after_stand_side_by_side(context: Context) -> None:
    page = page_of(context, whole_campaign(context, text=HOSTILE))
    part = page.split("Answers before and after")[1].split("<h2>")[0]
    assert (
        "Of 20 test prompts the champion does 18 better than the base model, and 1 worse." in part
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
        base_evaluation=view.base_evaluation.model_copy(update={"measured": {"test": slices}}),
        rounds=(*view.rounds[:-1], champion),
    )
    page = build_page(waiting)
    assert "waiting for approval</span>" in page
    assert "May I release it? Yes, if you approve it" in first_screen(page)
    tables = tables_of(page)
    assert ["base model scratch", "90.0 %", "better", "18", "1"] in tables[0]
    assert ["length=9", "12", "90.0 %", "25.0 %"] in tables[1]
    assert "The goal of the recipe is not reached." in page
    assert "1 of 20 test prompts (5.0 %) were answered better by the base model." in page
    assert f"ratchet approve {view.run_id} --version v1 --store {view.store}</code>" in page
    assert "Published as" not in page
    # Once approved it is an ordinary page.
    assert "Before you approve" not in build_page(view)


def test_a_base_that_nothing_beat_is_compared_with_nothing(context: Context) -> None:
    made = Campaign(context)
    made.prepare()
    made.round(0, 0.02, "rejected", stop="patience")
    page = page_of(context, made)
    assert "Answers before and after" not in page
    assert "What you have now 5.0 % [0.9–23.6] still the base model" in first_screen(page)


def test_the_page_needs_no_script_and_nothing_from_the_network(page: str) -> None:
    elements = Elements(page)
    assert not elements.names & {"script", "link", "iframe", "img", "object", "embed"}
    assert all(target.startswith("#") for target in elements.fetched)
    assert "svg" in elements.names


def test_text_of_models_and_data_is_shown_and_never_obeyed(context: Context) -> None:
    page = page_of(context, whole_campaign(context, text=HOSTILE))
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $\\frac{1}{0}$" in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_the_same_run_gives_the_same_bytes(context: Context) -> None:
    made = whole_campaign(context)
    assert page_of(context, made) == page_of(context, made)


def test_ids_are_unique_so_that_charts_do_not_borrow_from_each_other(page: str) -> None:
    ids = Elements(page).ids
    assert len(ids) == len(set(ids))


def test_charts_speak_to_screen_readers(page: str) -> None:
    labels = re.findall(r'<svg[^>]*role="img" aria-label="([^"]+)"', page)
    assert len(labels) == page.count("<svg")
    assert (
        "Validation accuracy per round: base 2.0 %, round 0 41.0 %, round 1 68.0 %, round 2 69.0 %, round 3 93.0 %"
        in labels
    )


def test_many_rounds_of_long_texts_stay_below_the_limit_of_kubeflow(context: Context) -> None:
    made = Campaign(context)
    made.prepare()
    made.round(0, 0.3, "promoted")
    for number in range(1, 9):
        made.round(number, 0.3 + number / 20, "promoted", text="<&>" * 4000)
    assert len(page_of(context, made).encode()) < 1_000_000


def test_samples_are_bounded_and_show_every_reason(page: str) -> None:
    assert "12 of 438 kept samples" in page
    assert "12 of 362 dropped samples" in page
    assert "unfinished: expected 0" in page


def test_the_plan_costs_and_lineage_are_on_the_page(context: Context) -> None:
    made = whole_campaign(context)
    page = page_of(context, made)
    assert "temperature 0.7 → 0.8" in page
    assert made.state.champion is not None
    assert made.state.champion in page
    assert made.prepared.ref in page
    assert re.search(r"generate <span class=\"soft\">×2", page)


def test_filters_are_shown_with_what_the_audit_says_of_each(page: str) -> None:
    tables = tables_of(page)
    newest = next(table for table in tables if table[0][0] == "filter")
    assert newest[0] == ["filter", "given", "kept", "precision", "recall", "share kept"]
    assert newest[1] == ["contamination", "800", "790", "–", "–", "–"]
    assert newest[2] == ["verifier", "790", "450", "91.2 % (≥ 83.5)", "88.8 %", "60.0 %"]
    assert newest[3] == ["consistency", "450", "400", "nothing kept", "0.0 %", "0.0 %"]
    assert newest[4] == ["all", "800", "400", "93.8 % (≥ 85.7)", "80.0 %", "55.0 %"]


def test_the_audit_and_the_bias_are_told_in_a_sentence(page: str) -> None:
    assert (
        "On 200 samples of 50 audit prompts, 62.5 % of them right, the filters keep 55.0 %" in page
    )
    assert (
        "of which 93.8 % are right (at least 85.7 % with 95 % confidence), and 80.0 % of the right ones."
        in page
    )
    assert "(0 alike, 1 nothing in common): answer 0.00, length 0.12, slice 1.00." in page


def test_what_hints_did_for_prompts_that_were_too_hard_is_told(page: str) -> None:
    assert (
        "No sample answered 9 prompts right. With their answer as a hint, 11 of 40 samples were accepted"
        in page
    )
    assert "1,005 prompts wait for the next round." in page


def test_a_round_that_an_alarm_rejected_says_so_with_every_alarm(page: str) -> None:
    first, second, third = (round_of(page, number) for number in (1, 2, 3))
    assert "rejected by an alarm" in second
    assert "distinct-2 is 0.9 times" in second
    assert "this round teaches errors" in second
    assert "rejected by an alarm" not in first + third
    assert "Alarms" not in first + third


def test_an_alarm_that_is_the_verdict_is_told_once(context: Context) -> None:
    made = whole_campaign(context)
    view = load_run(context, made.run_id)
    last = view.rounds[2]
    alarm = "the mix teaches errors: this round teaches errors"
    record = last.record.model_copy(update={"why": f"{alarm}; 9 prompts", "alarms": (alarm,)})
    page = build_page(dataclasses.replace(view, rounds=(dataclasses.replace(last, record=record),)))
    assert page.count("this round teaches errors") == 1


def test_signs_of_collapse_are_shown_against_round_0_with_what_blocks(page: str) -> None:
    tables = tables_of(page)
    table = next(table for table in tables if "word pairs" in table[0])
    assert table == [
        ["round", "word pairs", "human perplexity", "pass@8", "samples agree", "right on audit"],
        ["3", "0.850 ×, blocks", "1.120 ×, blocks", "−2.5 points", "90.0 %", "62.5 %"],
        ["2", "0.900 ×, warns", "1.080 ×, warns", "−2.5 points", "80.0 %", "62.5 %"],
        ["1", "0.950 ×", "1.040 ×", "−2.5 points", "70.0 %", "62.5 %"],
        ["0", "–", "–", "–", "–", "–"],
        ["blocks", "below 0.85", "above 1.1", "surely lower", "", ""],
    ]


def test_the_recipe_says_which_perplexity_blocks(context: Context) -> None:
    document = {**RECIPE, "decide": {**RECIPE["decide"], "max_perplexity_ratio": 3.0}}
    made = Campaign(context, document)
    made.prepare()
    made.round(0, 0.4, "promoted")
    made.round(1, 0.5, "promoted")
    made.round(2, 0.6, "promoted")
    made.round(3, 0.7, "promoted")
    page = page_of(context, made)
    assert "above 3" in page
    assert "1.120 ×</td>" in page


def test_rounds_of_receipts_without_these_measures_are_shown_without_them(context: Context) -> None:
    made = whole_campaign(context)
    view = load_run(context, made.run_id)
    bare = tuple(dataclasses.replace(one, select=None, evaluate=None) for one in view.rounds)
    page = build_page(dataclasses.replace(view, rounds=bare))
    assert "Round 3" in page
    assert "Signs of collapse" not in page
    assert "Filters" not in page


def test_the_exit_handler_stores_page_and_summary_beside_the_run(context: Context) -> None:
    made = whole_campaign(context)
    context.store.put_bytes(keys.job_key("job-1"), canonical_json({"run_id": made.run_id}))
    stored, summary = run(ReportInputs(job_id="job-1", status="SUCCEEDED"), context)
    assert context.store.get_bytes(keys.run_key(made.run_id, "report.html")).decode() == stored
    assert json.loads(context.store.get_bytes(keys.run_key(made.run_id, "summary.json"))) == summary
    assert summary["target_met"] is True
    assert "ended as succeeded" in stored


def test_a_job_that_never_named_its_run_still_gets_a_page(context: Context) -> None:
    stored, summary = run(ReportInputs(job_id="job-9", status="FAILED"), context)
    assert "The pipeline job job-9 ended as failed. It did not get far enough" in stored
    assert summary["status"] == "unknown"


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_failed_run_says_where_and_why(context: Context, rounds: int) -> None:
    made = Campaign(context)
    made.prepare()
    if rounds:
        made.round(0, 0.4, "promoted")
    made.fail("train", "train-r1", 1, UserError(f"learning rate is {HOSTILE}"))
    page = page_of(context, made)
    assert "What went wrong" in page
    assert "train-r1" in page
    assert "learning rate is &lt;script&gt;" in page
