"""The table of docs/figures.md: `python -m tests.benchmarks.table` writes it between its marks."""

from __future__ import annotations

from collections.abc import Mapping

from tests.benchmarks.figures import PAGE, Figure, load, met
from tests.marked_text import with_part


def table(figures: Mapping[str, Figure]) -> str:
    """Markdown; a bound that is not held says so."""
    if not figures:
        return "Nothing is measured yet: `make bench`."
    lines = ["| figure | value | bound | measured | command |", "|---|---|---|---|---|"]
    for name, one in sorted(figures.items()):
        verdict = {True: "", False: " **missed**", None: ""}[met(one)]
        where = f"{one['date']}, {one['cores']} cores, {one['memory_gib']} GiB, seed {one['seed']}"
        note = f" ({one['note']})" if one["note"] else ""
        value = f"{number(one['value'])} {one['unit']}".strip()
        lines.append(
            f"| `{name}` | {value}{note} | {one['bound']}{verdict} | {where} | `{one['command']}` |"
        )
    return "\n".join(lines)


def number(value: float) -> str:
    """At most four significant digits, thousands with commas: `0.9867`, `12,340`, `3.1e-12`."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def with_table(page: str, figures: Mapping[str, Figure]) -> str:
    """Return the page with the table between its marks. Raises ValueError without them."""
    return with_part(page, "figures", table(figures))


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), load()), encoding="utf-8")


if __name__ == "__main__":
    main()
