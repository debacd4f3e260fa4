"""Table and lead of docs/figures.md: `python -m tests.benchmarks.table` writes them between their
marks.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Collection, Mapping

from tests.benchmarks.figures import PAGE, Figure, load, met, stale_figures
from tests.marked_text import with_part


def table(figures: Mapping[str, Figure], stale: Collection[str] = ()) -> str:
    """Return Markdown; a bound that is not held says so, and so does a stale figure."""
    if not figures:
        return "Nothing is measured yet: `make bench`."
    lines = ["| figure | value | bound | measured | command |", "|---|---|---|---|---|"]
    for name, one in sorted(figures.items()):
        verdict = {True: "", False: " **missed**", None: ""}[met(one)]
        where = f"{one['date']}, {one['cores']} cores, {one['memory_gib']} GiB, seed {one['seed']}"
        if name in stale:
            where = f"**older code**: {where}"
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


def lead(figures: Collection[str], stale: Collection[str]) -> str:
    """Return how many figures are stale, and which; a whole group by its name."""
    if not stale:
        return "All are of the code as it is."
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for name in figures:
        groups[name.partition(".")[0]].add(name)
    entries: list[str] = []
    for group, names in sorted(groups.items()):
        old_names = sorted(names & set(stale))
        if len(old_names) == len(names):
            entries.append(f"`{group}.*`")
        else:
            entries += [f"`{name}`" for name in old_names]
    sentences = (
        f"{len(stale)} of {len(figures)} figures are of older code than today's, and say so in the "
        "table: what they measure may have become better or worse since. "
        "`python -m tests.benchmarks.stale` says what changed. "
        f"They are {', '.join(entries)}."
    )
    return textwrap.fill(sentences, 120, break_on_hyphens=False)


def with_table(
    page: str, figures: Mapping[str, Figure], stale: Collection[str] | None = None
) -> str:
    """Return the page with lead and table between their marks.

    Args:
        page: Text of the page.
        figures: Name → figure.
        stale: Names of the figures of older code; None compares with the code of this checkout.

    Raises:
        ValueError: The page lacks a mark.
    """
    old_names = stale_figures(figures) if stale is None else stale
    page = with_part(page, "stale", lead(figures.keys(), old_names))
    return with_part(page, "figures", table(figures, old_names))


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(
        with_table(PAGE.read_text(encoding="utf-8"), load()), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
