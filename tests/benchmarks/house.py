"""Style of the product code in four numbers, and the seconds of `make quick`: `python -m
tests.benchmarks.house`. Three minutes; with `--style`, the style alone, two seconds.

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

COMMAND = "python -m tests.benchmarks.house"
FIGURES = {
    "house.nodes_per_line": ("syntax nodes per code line", "nodes", "≤ 4.5"),
    "house.vague_names_percent": ("vague names, %", "%", "≤ 1"),
    "house.any_per_kloc": ("`Any` per 1,000 lines", "", "≤ 8"),
    "house.fmt_skips": ("`# fmt: skip`", "", "≤ 0"),
}
"""Figure → the measure of `tests.style_meter`, its unit and its bound."""


def quick_seconds() -> float:
    """Return the wall time of `make quick`, which must pass; its set-up is not counted."""
    root = Path(__file__).resolve().parents[2]
    subprocess.run(["make", "setup"], cwd=root, check=True)
    began = time.monotonic()
    subprocess.run(["make", "quick"], cwd=root, check=True)
    return time.monotonic() - began


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="without effect: nothing here is drawn")
    parser.add_argument("--style", action="store_true", help="without the time of `make quick`")
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    options = parser.parse_args()
    rates = measure(product_files()).rates()
    values = {figure: (rates[name], unit, bound) for figure, (name, unit, bound) in FIGURES.items()}
    if not options.style:
        values["house.quick_seconds"] = quick_seconds(), "s", "≤ 90"
    for figure, (value, unit, bound) in values.items():
        print(f"{figure} = {value:.4g} {unit} (bound {bound})")
        if not options.dry:
            record(figure, value, unit, bound, COMMAND, options.seed)


if __name__ == "__main__":
    main()
