"""The page that people mark answers on, used by its keys in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.cli.review import page_of
from components.contracts.reviews import ReviewRow
from tests.unit.browsing import CHROMIUM, open_page

pytestmark = pytest.mark.browser

ROWS = [
    ReviewRow(id=f"{number:016x}", prompt=prompt, answer=prompt, automatic=number != 1)
    for number, prompt in enumerate(
        ("</dd><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "c")
    )
]
# Stands in for the download: what would be saved is read instead.
PRESSES = """<pre id="outcome"></pre><script>
const outcome = { alerts: 0 };
window.alert = () => { outcome.alerts += 1; };
const press = (key) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const shown = () => [...document.querySelectorAll("article")].map((one) => !one.hidden);
URL.createObjectURL = (blob) => {
  blob.text().then((text) => {
    outcome.saved = text;
    document.getElementById("outcome").textContent = JSON.stringify(outcome);
  });
  return "#";
};
"ynkn".split("").forEach(press);
press("y");
const select = document.getElementById("filter");
for (const value of ["differs", "wrong", "unmarked", "all"]) {
  select.value = value;
  select.dispatchEvent(new Event("change"));
  outcome[value] = shown();
}
outcome.count = document.getElementById("count").textContent;
document.body.focus();
press("s");
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_answers_are_marked_by_keys_filtered_and_saved(tmp_path: Path) -> None:
    page = page_of("run-0123456789", 2, ROWS).replace("</body>", f"{PRESSES}</body>")
    outcome = open_page(page, tmp_path, "outcome")
    # y marks the first and goes on; n the second; k goes back to it, n again; y marks the third.
    verdicts = [json.loads(line) for line in outcome["saved"].splitlines()]
    assert verdicts == [
        {"id": ROWS[0].id, "right": True},
        {"id": ROWS[1].id, "right": False},
        {"id": ROWS[2].id, "right": True},
    ]
    assert outcome["count"] == "3 of 3 marked"
    assert outcome["differs"] == outcome["unmarked"] == [False, False, False]
    assert outcome["wrong"] == [False, True, False]
    assert outcome["all"] == [True, True, True]
    assert outcome["alerts"] == 0
