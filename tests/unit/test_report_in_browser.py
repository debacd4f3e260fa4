"""The report in a real browser, as wide as a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.report.page import build_page
from components.report.runs import load_run
from components.runtime.context import Context
from tests.unit.handmade import whole_campaign

pytestmark = pytest.mark.browser

PHONE_WIDTH = 360
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
)

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
    CHROMIUM is None, reason="no chromium on this machine: the report is not opened in a browser"
)
def test_the_report_fits_a_phone_without_scrolling_sideways(
    context: Context, tmp_path: Path
) -> None:
    made = whole_campaign(context, text="long" * 100)
    measured = measure(build_page(load_run(context, made.run_id, examples=12)), tmp_path)
    assert measured["frame"] == PHONE_WIDTH
    assert measured["page"] <= PHONE_WIDTH
    assert measured["text"] > 1000
    assert measured["charts"] > 0
    assert measured["hidden"] == 0


def measure(page: str, folder: Path) -> dict[str, Any]:
    """Lay the page out in a frame of a phone's width and return its measures in pixels."""
    (folder / "ruler.html").write_text(
        RULER.format(width=PHONE_WIDTH, page=html.escape(page)), encoding="utf-8"
    )
    done = subprocess.run(
        [
            str(CHROMIUM),
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=800,1000",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (folder / "ruler.html").as_uri(),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    # The log of the page's console is in it: refused styles, broken markup of charts.
    assert "CONSOLE" not in done.stderr
    found = re.search(r'<pre id="measured">(.+?)</pre>', done.stdout)
    assert found, f"chromium ended with status {done.returncode}: {done.stderr[-2000:]}"
    measured: dict[str, Any] = json.loads(html.unescape(found[1]))
    return measured
