"""The report is one safe, small, self-contained page, whatever happened to the run."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from components.canonical import canonical_json
from components.errors import UserError
from components.report.page import build_page
from components.report.runs import load_run
from components.report.step import ReportInputs, run
from components.runtime.context import Context
from components.storage import keys
from tests.unit.handmade import HOSTILE, RECIPE, Campaign, whole_campaign
from tests.unit.report_pages import page_of, round_of, tables_of


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
            if name.startswith("on") or name in (
                "src",
                "href",
                "xlink:href",
                "srcset",
                "action",
            ):
                self.fetched.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def test_a_command_in_a_sentence_is_shown_as_code(page: str) -> None:
    assert "Use it. <code>ratchet try --compare</code> asks it" in page


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


def test_many_rounds_of_long_texts_stay_below_the_limit_of_kubeflow(
    context: Context,
) -> None:
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
    assert newest[2] == [
        "verifier",
        "790",
        "450",
        "91.2 % (≥ 83.5)",
        "88.8 %",
        "60.0 %",
    ]
    assert newest[3] == ["consistency", "450", "400", "nothing kept", "0.0 %", "0.0 %"]
    assert newest[4] == ["all", "800", "400", "93.8 % (≥ 85.7)", "80.0 %", "55.0 %"]


def test_the_audit_and_the_bias_are_told_in_a_sentence(page: str) -> None:
    assert (
        "On 200 samples of 50 audit prompts, 62.5 % of them right, the filters keep 55.0 %"
        in page
    )
    assert (
        "of which 93.8 % are right (at least 85.7 % with 95 % confidence), and 80.0 % of the right ones."
        in page
    )
    assert (
        "(0 alike, 1 nothing in common): answer 0.00, length 0.12, slice 1.00." in page
    )


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
    record = last.record.model_copy(
        update={"why": f"{alarm}; 9 prompts", "alarms": (alarm,)}
    )
    page = build_page(
        dataclasses.replace(view, rounds=(dataclasses.replace(last, record=record),))
    )
    assert page.count("this round teaches errors") == 1


def test_signs_of_collapse_are_shown_against_round_0_with_what_blocks(
    page: str,
) -> None:
    tables = tables_of(page)
    table = next(table for table in tables if "word pairs" in table[0])
    assert table == [
        [
            "round",
            "word pairs",
            "human perplexity",
            "pass@8",
            "samples agree",
            "right on audit",
        ],
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


def test_rounds_of_receipts_without_these_measures_are_shown_without_them(
    context: Context,
) -> None:
    made = whole_campaign(context)
    view = load_run(context, made.run_id)
    bare = tuple(
        dataclasses.replace(one, select=None, evaluate=None) for one in view.rounds
    )
    page = build_page(dataclasses.replace(view, rounds=bare))
    assert "Round 3" in page
    assert "Signs of collapse" not in page
    assert "Filters" not in page


def test_the_exit_handler_stores_page_and_summary_beside_the_run(
    context: Context,
) -> None:
    made = whole_campaign(context)
    context.store.put_bytes(
        keys.job_key("job-1"), canonical_json({"run_id": made.run_id})
    )
    stored, summary = run(ReportInputs(job_id="job-1", status="SUCCEEDED"), context)
    assert (
        context.store.get_bytes(keys.run_key(made.run_id, "report.html")).decode()
        == stored
    )
    assert (
        json.loads(context.store.get_bytes(keys.run_key(made.run_id, "summary.json")))
        == summary
    )
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
