"""Which figures are older than the code that they measure: `python -m tests.benchmarks.stale`.

Prints them by the command that measures them anew, with the paths that changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tests.benchmarks.figures import Figure, load, stale_figures


def by_command(
    figures: Mapping[str, Figure], stale: Mapping[str, Sequence[str]]
) -> dict[str, tuple[list[str], list[str]]]:
    """Return command → (its stale figures, paths that changed since any of them)."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    paths: defaultdict[str, set[str]] = defaultdict(set)
    for name, changed in sorted(stale.items()):
        command = figures[name]["command"]
        names[command].append(name)
        paths[command].update(changed)
    return {
        command: (names[command], sorted(paths[command])) for command in sorted(names)
    }


def main() -> None:
    """Print one command after the other."""
    figures = load()
    stale = stale_figures(figures)
    print(
        f"{len(stale)} of {len(figures)} figures are older than the code that they measure"
    )
    for command, (names, paths) in by_command(figures, stale).items():
        print(
            f"\n{command}\n  figures: {', '.join(names)}\n  changed: {', '.join(paths)}"
        )


if __name__ == "__main__":
    main()
