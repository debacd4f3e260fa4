"""The report in a real browser, as wide as a phone."""

from __future__ import annotations

import html
from pathlib import Path

import pytest

from components.report.page import build_page
from components.report.runs import load_run
from components.runtime.context import Context
from tests.unit.browsing import CHROMIUM, open_page
from tests.unit.handmade import whole_campaign

pytestmark = pytest.mark.browser

PHONE_WIDTH = 360
# Chromium's own window has a least width; a frame has none. It is tall, so no scroll bar takes
# width, as on a phone.
RULER = """<!doctype html><meta charset="utf-8"><title>ruler</title>
<iframe style="width:{width}px;height:60000px;border:0" srcdoc="{page}"></iframe>
<pre id="measured"></pre>
<script>
document.querySelector("iframe").addEventListener("load", (event) => {{
  const view = event.target.contentDocument, root = view.documentElement;
  const drawn = [...view.querySelectorAll("svg")].map((one) => one.getBoundingClientRect().width);
  document.getElementById("measured").textContent = JSON.stringify({{
    page: Math.max(root.scrollWidth, view.body.scrollWidth), frame: root.clientWidth, height: root.scrollHeight,
    text: view.body.innerText.length, charts: drawn.length, hidden: drawn.filter((width) => width < 1).length,
  }});
}});
</script>
"""


@pytest.mark.skipif(
    CHROMIUM is None,
    reason="no chromium on this machine: the report is not opened in a browser",
)
def test_the_report_fits_a_phone_without_scrolling_sideways(
    context: Context, tmp_path: Path
) -> None:
    made = whole_campaign(context, text="long" * 100)
    page = build_page(load_run(context, made.run_id, examples=12))
    framed = RULER.format(width=PHONE_WIDTH, page=html.escape(page))
    measured = open_page(framed, tmp_path, "measured")
    assert measured["frame"] == PHONE_WIDTH
    assert measured["page"] <= PHONE_WIDTH
    assert measured["text"] > 1000
    assert measured["charts"] > 0
    assert measured["hidden"] == 0
