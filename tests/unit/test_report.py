"""The report is one safe, small, self-contained page, whatever happened to the run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from components.common import layout
from components.common.context import Context
from components.common.errors import UserError
from components.common.records import canonical_json
from components.report.page import build_page
from components.report.runs import load_run
from components.report.step import ReportInputs, run
from tests.unit.handmade import HOSTILE, Campaign, whole_campaign


def page_of(context: Context, made: Campaign) -> str:
    return build_page(load_run(context, made.run_id, examples=12))


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


def test_the_page_says_in_a_sentence_whether_the_target_was_met(context: Context) -> None:
    page = page_of(context, whole_campaign(context)).replace("\u00a0", " ")
    assert "Target met: validation accuracy went from 41.0 % to 93.0 % (goal 90.0 %)" in page
    assert "the champion is round 3 of 3" in page


def test_the_page_needs_no_script_and_nothing_from_the_network(context: Context) -> None:
    elements = Elements(page_of(context, whole_campaign(context)))
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


def test_ids_are_unique_so_that_charts_do_not_borrow_from_each_other(context: Context) -> None:
    ids = Elements(page_of(context, whole_campaign(context))).ids
    assert len(ids) == len(set(ids))


def test_charts_speak_to_screen_readers(context: Context) -> None:
    page = page_of(context, whole_campaign(context))
    labels = re.findall(r'<svg[^>]*role="img" aria-label="([^"]+)"', page)
    assert len(labels) == page.count("<svg")
    assert "Validation accuracy per round: round 0 41.0 %, round 1 68.0 %, round 2 69.0 %, round 3 93.0 %" in labels


def test_many_rounds_of_long_texts_stay_below_the_limit_of_kubeflow(context: Context) -> None:
    made = Campaign(context)
    made.prepare()
    made.round(0, 0.3, "first")
    for number in range(1, 9):
        made.round(number, 0.3 + number / 20, "promoted", text="<&>" * 4000)
    assert len(page_of(context, made).encode()) < 1_000_000


def test_samples_are_bounded_and_show_every_reason(context: Context) -> None:
    page = page_of(context, whole_campaign(context))
    assert "12 of 438 kept samples" in page
    assert "12 of 362 dropped samples" in page
    assert "unfinished: expected 0" in page


def test_the_plan_costs_and_lineage_are_on_the_page(context: Context) -> None:
    made = whole_campaign(context)
    page = page_of(context, made)
    assert "temperature 0.7 → 0.8" in page
    assert made.state.champion in page
    assert made.prepared.ref in page
    assert re.search(r"generate <span class=\"soft\">×2", page)


def test_the_exit_handler_stores_page_and_summary_beside_the_run(context: Context) -> None:
    made = whole_campaign(context)
    context.store.put_bytes(layout.job_key("job-1"), canonical_json({"run_id": made.run_id}))
    html, summary = run(ReportInputs(job_id="job-1", status="SUCCEEDED"), context)
    assert context.store.get_bytes(layout.run_key(made.run_id, "report.html")).decode() == html
    assert json.loads(context.store.get_bytes(layout.run_key(made.run_id, "summary.json"))) == summary
    assert summary["target_met"] is True
    assert "ended as succeeded" in html


def test_a_job_that_never_named_its_run_still_gets_a_page(context: Context) -> None:
    html, summary = run(ReportInputs(job_id="job-9", status="FAILED"), context)
    assert "The pipeline job job-9 ended as failed. It did not get far enough" in html
    assert summary["status"] == "unknown"


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_failed_run_says_where_and_why(context: Context, rounds: int) -> None:
    made = Campaign(context)
    made.prepare()
    if rounds:
        made.round(0, 0.4, "first")
    made.fail("train", "train-r1", 1, UserError(f"learning rate is {HOSTILE}"))
    page = page_of(context, made)
    assert "What went wrong" in page
    assert "train-r1" in page
    assert "learning rate is &lt;script&gt;" in page
