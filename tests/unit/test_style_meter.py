"""The style meter counts what it says it counts."""

from __future__ import annotations

import re
from pathlib import Path

from tests.style_meter import PAGE, measure, product_files

SQUEEZED = '''"""What this is."""
# A comment of its own.
from typing import Any


class Thing:
    name: str
    """How it is called."""

    def find(self, where: Any) -> Any:  # a comment beside code
        """Return it."""
        found = [one for one in where]  # fmt: skip
        return found
'''


def rates(tmp_path: Path, text: str) -> dict[str, float]:
    path = tmp_path / "module.py"
    path.write_text(text)
    return measure([path]).rates()


def test_every_measure_counts_what_its_name_says(tmp_path: Path) -> None:
    assert rates(tmp_path, SQUEEZED) == {
        # import, class, field (3), def (3), two statements with a comprehension (5) and a name (2).
        "syntax nodes per code line": 16 / 6,
        "vague names, %": 75.0,  # where, found, one; not: name
        "`Any` per 1,000 lines": 2 * 1000 / 13,
        "`# fmt: skip`": 1,
        "comment lines, %": 100 / 13,
        "docstrings that begin with a question word, %": 200 / 3,
        "lines of a function, median": 4,
        "lines of a function, 90th percentile": 4,
        "lines of a function, most": 4,
        "lines over 100 columns, %": 0.0,
    }
    long = SQUEEZED + f"TEXT = '{'x' * 92}'\nTEXT = '{'x' * 91}'\n"
    assert rates(tmp_path, long)["lines over 100 columns, %"] == 100 / 15


def test_all_that_is_shipped_is_measured() -> None:
    names = {path.name for path in product_files()}
    assert {"pipeline.py", "step.py", "component.py", "build.py"} <= names
    assert not any("tests" in path.parts for path in product_files())


def test_the_page_for_developers_shows_every_measure() -> None:
    """Not their values, which each commit changes a little: `make golden` writes them."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- style -->\n")
    shown, mark, _ = rest.partition("<!-- /style -->")
    assert mark
    names = re.findall(r"^\| (.+) \| [0-9.e+]+ \|$", shown, re.MULTILINE)
    assert names == list(measure([Path(__file__)]).rates())
