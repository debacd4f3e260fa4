"""Charts of the report: matplotlib drawings as inline SVG, the same bytes for the same run.

Colours are CSS variables of the page, so that a chart follows its light or dark scheme; text stays
text, in the page's own font. Everything that came from data is drawn without matplotlib's
mathematics mode.
"""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

from components.contracts.summaries import LogEntry
from components.report.runs import RoundView

# matplotlib knows no CSS variables: it draws in these colours, and they are replaced in the SVG.
_INK, _SOFT, _LINE, _ACCENT, _GOOD, _PAPER = (
    "#010101",
    "#020202",
    "#030303",
    "#040404",
    "#050505",
    "#060606",
)
_REASONS = ("#110101", "#110202", "#110303", "#110404", "#110505", "#110606")
_VARIABLES = {
    _INK: "--ink",
    _SOFT: "--soft",
    _LINE: "--line",
    _ACCENT: "--accent",
    _GOOD: "--good",
    _PAPER: "--paper",
    **{colour: f"--c{number}" for number, colour in enumerate(_REASONS, 1)},
}
_STYLE = {
    "font.size": 8.5,
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "svg.fonttype": "none",
}
_MAX_POINTS = 160

P = ParamSpec("P")


def _styled(draw: Callable[P, str]) -> Callable[P, str]:
    """Draw with this module's settings, whatever a matplotlibrc says; they are read whenever a text
    is made."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        from matplotlib import rc_context, rcParamsDefault

        # The back end stays as it is: choosing one is for programs, not for modules.
        with rc_context(
            {**{key: value for key, value in rcParamsDefault.items() if key != "backend"}, **_STYLE}
        ):
            return draw(*args, **kwargs)

    return drawn


@_styled
def score_chart(rounds: Sequence[RoundView], threshold: float | None) -> str:
    """Accuracy per round with 95 % intervals, the champion's path and the goal."""
    figure, axes = _figure(4.0, 2.5)
    numbers = [one.record.round for one in rounds]
    scores = [100 * one.record.accuracy for one in rounds]
    champion: list[float] = []
    for one, score in zip(rounds, scores, strict=True):
        champion.append(champion[-1] if champion and one.record.verdict == "rejected" else score)
    axes.step(
        numbers, champion, where="post", color=_ACCENT, linewidth=1.2, alpha=0.5, label="champion"
    )
    for one, number, score in zip(rounds, numbers, scores, strict=True):
        low, high = (100 * bound for bound in one.record.interval)
        axes.plot([number, number], [low, high], color=_SOFT, linewidth=1.4, solid_capstyle="round")
        filled = one.record.verdict != "rejected"
        axes.plot(
            number,
            score,
            "o",
            markersize=6,
            markeredgewidth=1.4,
            markeredgecolor=_ACCENT,
            markerfacecolor=_ACCENT if filled else _PAPER,
        )
    axes.plot([], [], "o", color=_ACCENT, label="promoted")
    axes.plot([], [], "o", markerfacecolor=_PAPER, markeredgecolor=_ACCENT, label="rejected")
    if threshold is not None:
        axes.axhline(
            100 * threshold, color=_GOOD, linewidth=1.2, linestyle=(0, (4, 3)), label="goal"
        )
    axes.set_ylabel("validation accuracy, %")
    axes.set_xlabel("round")
    _whole_rounds(axes, numbers)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(-3.0, bottom), min(103.0, top))
    _legend(figure)
    spoken = ", ".join(
        f"round {number} {score:.1f} %" for number, score in zip(numbers, scores, strict=True)
    )
    return _svg(figure, "score", f"Validation accuracy per round: {spoken}")


@_styled
def drop_chart(rounds: Sequence[RoundView]) -> str:
    """What became of each round's samples: accepted, or dropped for which reason. Empty without
    self-made samples."""
    made = [one.record for one in rounds if one.record.generated]
    if not made:
        return ""
    counts: dict[str, int] = {}
    for record in made:
        for reason, count in record.dropped.items():
            counts[reason] = counts.get(reason, 0) + count
    reasons = sorted(counts, key=lambda reason: (-counts[reason], reason))
    named = reasons if len(reasons) <= len(_REASONS) else reasons[: len(_REASONS) - 1]
    figure, axes = _figure(4.0, 0.9 + 0.34 * len(made) + 0.16 * ((len(named) + 3) // 3))
    left = [0.0] * len(made)
    places = [-index for index in range(len(made))]
    layers = [("accepted", _ACCENT, [record.accepted for record in made])]
    for reason, colour in zip(named, _REASONS, strict=False):
        layers.append((reason[:28], colour, [record.dropped.get(reason, 0) for record in made]))
    if len(named) < len(reasons):
        rest = [
            sum(record.dropped.get(reason, 0) for reason in reasons[len(named) :])
            for record in made
        ]
        layers.append(("other", _REASONS[-1], rest))
    for label, colour, widths in layers:
        axes.barh(
            places,
            widths,
            left=left,
            height=0.62,
            color=colour,
            label=label,
            edgecolor=_PAPER,
            linewidth=0.6,
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(places, [f"round {record.round}" for record in made])
    axes.set_xlabel("samples")
    _legend(figure, columns=3)
    spoken = ", ".join(
        f"round {one.round} accepted {one.accepted} of {one.generated}" for one in made
    )
    return _svg(figure, "drops", f"Acceptance: {spoken}")


@_styled
def loss_chart(one: RoundView) -> str:
    """Training and dev loss of one round; empty where there is no log."""
    lines = [line for line in one.curve if line.loss is not None]
    if not lines:
        return ""
    figure, axes = _figure(2.9, 1.9)
    steps, losses = _thinned(lines)
    axes.plot(steps, losses, color=_SOFT, linewidth=1.1, label="training")
    looks = [(line.step, line.dev_loss) for line in one.curve if line.dev_loss is not None]
    if looks:
        axes.plot(
            *zip(*looks, strict=True),
            "-o",
            color=_ACCENT,
            linewidth=1.3,
            markersize=2.6,
            label="dev",
        )
    axes.set_xlabel("step")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    _legend(figure)
    spoken = f"Loss of round {one.record.round}: training {losses[0]:.3f} to {losses[-1]:.3f}"
    return _svg(
        figure,
        f"loss{one.record.round}",
        spoken + (f", dev at last {looks[-1][1]:.3f}" if looks else ""),
    )


def _thinned(lines: Sequence[LogEntry]) -> tuple[list[float], list[float]]:
    """At most _MAX_POINTS points, each the mean of a bin: a readable line and a small page."""
    size = max(1, -(-len(lines) // _MAX_POINTS))
    bins = [lines[start : start + size] for start in range(0, len(lines), size)]
    steps = [sum(line.step for line in some) / len(some) for some in bins]
    return steps, [sum(line.loss or 0.0 for line in some) / len(some) for some in bins]


def _figure(width_inches: float, height_inches: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    # A Figure of its own: pyplot would keep state between reports and look for a display.
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.grid(axis="both", color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(length=0, labelcolor=_SOFT)
    axes.xaxis.label.set_color(_SOFT)
    axes.yaxis.label.set_color(_SOFT)
    return figure, axes


def _whole_rounds(axes: Any, numbers: Sequence[int]) -> None:
    every = max(1, len(numbers) // 12)
    axes.set_xticks(list(numbers[::every]))
    axes.set_xlim(min(numbers) - 0.4, max(numbers) + 0.4)


def _legend(figure: Any, columns: int = 4) -> None:
    figure.legend(
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=8,
        labelcolor=_SOFT,
        handlelength=1.4,
        columnspacing=1.1,
        borderpad=0.0,
    )


def _svg(figure: Any, name: str, spoken: str) -> str:
    """The drawing as an element of the page: titled for screen readers, ids of its own, no dates,
    no metadata."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL
    )
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = html.escape(spoken)
    return re.sub(
        r"(<svg[^>]*)>",
        rf'\1 role="img" aria-label="{_literal(label)}"><title>{_literal(label)}</title>',
        text,
        count=1,
    )


def _literal(text: str) -> str:
    """Text that stands for itself in a replacement of `re.sub`."""
    return text.replace("\\", "\\\\")
