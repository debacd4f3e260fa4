"""Style of the product code in four numbers, the README's length, and the time of its tests: `python -m
tests.benchmarks.house`. Twenty minutes; with `--style`, the style alone, two seconds.

`python -m tests.style_meter` prints all measures and says what each counts. The bounds are those of
well-read Python projects measured by the same script: httpx has 3.7 nodes per code line, 0.5 % vague
names and 6.5 `Any` per 1,000 lines.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

from tests.benchmarks.figures import record
from tests.style_meter import measure, product_files

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python -m tests.benchmarks.house"
FIGURES = {
    "house.nodes_per_line": ("syntax nodes per code line", "nodes", "≤ 4.5"),
    "house.vague_names_percent": ("vague names, %", "%", "≤ 1"),
    "house.any_per_kloc": ("`Any` per 1,000 lines", "", "≤ 8"),
    "house.fmt_skips": ("`# fmt: skip`", "", "≤ 0"),
}
"""Figure → the measure of `tests.style_meter`, its unit and its bound."""


def timed(target: str) -> tuple[float, str]:
    """Return the seconds of a make target, without its set-up, and the last line it printed.

    The time counts whether or not all tests pass: the line says how many did not.
    """
    subprocess.run(["make", "setup"], cwd=ROOT, check=True)
    lines: list[str] = []
    began = time.monotonic()
    with subprocess.Popen(
        ["make", target], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if " passed" in line or " failed" in line:
                lines.append(line.strip("= \n"))
    return time.monotonic() - began, lines[-1] if lines else "no summary"


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=0, help="without effect: nothing here is drawn"
    )
    parser.add_argument("--style", action="store_true", help="the style alone")
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    options = parser.parse_args()
    rates = measure(product_files()).rates()
    values = {
        figure: (rates[name], unit, bound, "")
        for figure, (name, unit, bound) in FIGURES.items()
    }
    num_lines = len((ROOT / "README.md").read_text(encoding="utf-8").splitlines())
    values["readme.lines"] = num_lines, "lines", "≤ 250", ""
    if not options.style:
        seconds, summary = timed("quick")
        values["house.quick_seconds"] = seconds, "s", "≤ 90", summary
        seconds, summary = timed("test")
        values["house.test_minutes"] = seconds / 60, "min", "≤ 15", summary
    for figure, (value, unit, bound, note) in values.items():
        print(f"{figure} = {value:.4g} {unit} (bound {bound}) {note}")
        if not options.dry:
            record(figure, value, unit, bound, COMMAND, options.seed, note)


if __name__ == "__main__":
    main()
