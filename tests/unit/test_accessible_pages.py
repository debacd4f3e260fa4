"""Pages of ours held against WCAG by axe in a real browser, in light and dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from components.cli.review import page_of
from components.contracts.reviews import ReviewRow
from components.errors import UserError
from components.report.page import build_page
from components.report.runs import load_run
from components.runtime.context import Context
from tests.unit.browsing import faults_of, why_no_axe
from tests.unit.handmade import Campaign, whole_campaign

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(why_no_axe()), reason=why_no_axe() or "it can be tried"),
]


def report(context: Context) -> str:
    return build_page(load_run(context, whole_campaign(context).run_id, examples=12))


def report_of_a_failure(context: Context) -> str:
    made = Campaign(context)
    made.prepare()
    made.fail("train", "train-r0", 0, UserError("there is no room"))
    return build_page(load_run(context, made.run_id, examples=12))


def review(context: Context) -> str:
    rows = [
        ReviewRow(id=f"{number:016x}", prompt="2+2", answer="4") for number in range(3)
    ]
    return page_of("run-0123456789", 2, rows)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("make", [report, report_of_a_failure, review])
def test_no_rule_of_accessibility_is_broken(
    context: Context, tmp_path: Path, make: Callable[[Context], str], dark: bool
) -> None:
    assert faults_of(make(context), tmp_path, dark=dark) == []
