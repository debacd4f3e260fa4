"""Size of the report, and what axe finds in it: `python -m tests.benchmarks.report`.

The report is that of a campaign of four rounds made by hand, with all that a report can have. Needs
Chromium, and axe from `npm ci --prefix .github/lint`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from components.report.page import EXAMPLES_PER_ROUND, build_page
from components.report.runs import load_run
from components.runtime.context import make_context
from tests.benchmarks.figures import record
from tests.unit.browsing import faults_of, why_no_axe
from tests.unit.handmade import whole_campaign

COMMAND = "python -m tests.benchmarks.report"
LARGEST_KB = 1000


def main() -> None:
    """Measure and record."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    if reason := why_no_axe():
        raise SystemExit(f"error: {reason}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = f"file://{folder}/store"
        context = make_context(store, {"RATCHET_CACHE": str(folder / "cache")})
        run_id = whole_campaign(context).run_id
        page = build_page(load_run(context, run_id, examples=EXAMPLES_PER_ROUND))
        faults: list[str] = []
        for scheme in ("light", "dark"):
            (folder / scheme).mkdir()
            faults += faults_of(page, folder / scheme, dark=scheme == "dark")
    for fault in faults:
        print(fault)
    size = len(page.encode()) / 1000
    record("report.kb", size, "kB", f"≤ {LARGEST_KB}", COMMAND, 0)
    record(
        "report.axe_violations",
        float(len(faults)),
        "in light and dark",
        "≤ 0",
        COMMAND,
        0,
    )
    print(f"report.kb = {size:.1f}, report.axe_violations = {len(faults)}")


if __name__ == "__main__":
    main()
