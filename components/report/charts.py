"""Charts of the report: matplotlib drawings as inline SVG, the same bytes for the same run.

Colours are CSS variables of the page, so that a chart follows its light or dark scheme; text stays
text, in the page's own font. Everything that came from data is drawn without matplotlib's
mathematics mode.
"""

from __future__ import annotations

import functools
import html
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, ParamSpec

from components.contracts.state import RoundRecord
from components.contracts.summaries import LogEntry
from components.measures import measure_of
from components.report.views import Rounds, RoundView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib knows no CSS variables: it draws in these colours, and they are replaced in the SVG.
_INK = "#010101"
_SOFT = "#020202"
_LINE = "#030303"
_ACCENT = "#040404"
_GOOD = "#050505"
_PAPER = "#060606"
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
    # A dollar sign in a filter's reason would begin a formula, and a bad formula is an error.
    "text.parse_math": False,
    "axes.unicode_minus": False,
    # Letters stay text, which can be searched and read aloud; outlines would be larger too.
    "svg.fonttype": "none",
}
_MAX_POINTS = 160
"""Points of a loss curve: more make the page larger and the line no clearer."""

P = ParamSpec("P")


def _styled(draw: Callable[P, str]) -> Callable[P, str]:
    """Return the drawing function, with this module's settings whatever a matplotlibrc says."""

    @functools.wraps(draw)
    def draw_styled(*args: P.args, **kwargs: P.kwargs) -> str:
        from matplotlib import rc_context, rcParamsDefault

        # The back end stays as it is: choosing one is for programs, not for modules.
        defaults = {
            key: value for key, value in rcParamsDefault.items() if key != "backend"
        }
        # Around the whole function: matplotlib reads the settings whenever it makes a text.
        with rc_context({**defaults, **_STYLE}):
            return draw(*args, **kwargs)

    return draw_styled


@_styled
def score_chart(rounds: Rounds, threshold: float | None, base: float | None) -> str:
    """Return the measure per round with 95 % intervals, the champion's path and the goal.

    Args:
        rounds: Rounds, at least one.
        threshold: The goal; None if it is not known.
        base: Score of the base model; None if it is not known, or is not the champion before
            these rounds.
    """
    figure, axes = _figure(4.0, 2.5)
    records = [round_view.record for round_view in rounds]
    measure = measure_of(records[0].metric)
    scale = _scale(records[0])
    numbers = [record.round for record in records]
    axes.step(
        numbers,
        [scale * score for score in _champion_scores(records, base)],
        where="post",
        color=_ACCENT,
        linewidth=1.2,
        alpha=0.5,
        label="champion",
    )
    # A weak round has no candidate to draw.
    trained = [record for record in records if not record.weak]
    for record in trained:
        _score_point(axes, record)
    # Empty series, for the legend.
    axes.plot([], [], "o", color=_ACCENT, label="promoted")
    axes.plot(
        [], [], "o", markerfacecolor=_PAPER, markeredgecolor=_ACCENT, label="rejected"
    )
    if threshold is not None:
        axes.axhline(
            scale * threshold,
            color=_GOOD,
            linewidth=1.2,
            linestyle=(0, (4, 3)),
            label="goal",
        )
    if base is not None:
        axes.axhline(
            scale * base, color=_SOFT, linewidth=1.2, linestyle=":", label="base"
        )
    is_share = measure.name == "accuracy"
    axes.set_ylabel(f"validation {measure.name}{', %' if is_share else ''}")
    axes.set_xlabel("round")
    _whole_rounds(axes, numbers)
    if is_share:
        # Room for the markers at 0 and 100 %, and no empty space beyond.
        bottom, top = axes.get_ylim()
        bottom = max(-3.0, bottom)
        top = min(103.0, top)
        axes.set_ylim(bottom, top)
    elif not measure.higher_is_better:
        # A perplexity of a thousand before any training would leave a flat line behind it.
        axes.set_yscale("log")
    _legend(figure)
    values = [
        f"round {record.round} {measure.text(record.score)}" for record in trained
    ]
    if base is not None:
        values.insert(0, f"base {measure.text(base)}")
    return _svg(
        figure, "score", f"Validation {measure.name} per round: {', '.join(values)}"
    )


def _scale(record: RoundRecord) -> float:
    """Return the factor of a score on the chart: shares are shown in per cent."""
    return 100.0 if record.metric == "accuracy" else 1.0


def _champion_scores(records: Sequence[RoundRecord], base: float | None) -> list[float]:
    """Return the score of the champion after each round."""
    scores: list[float] = []
    champion = base
    for record in records:
        # The first round shown may be a rejected one: earlier champions are not on the chart.
        if champion is None or record.verdict == "promoted":
            champion = record.score
        scores.append(champion)
    return scores


def _score_point(axes: Axes, record: RoundRecord) -> None:
    """Draw the candidate of a round with its interval; hollow if it was rejected."""
    low, high = record.interval
    scale = _scale(record)
    axes.plot(
        [record.round, record.round],
        [scale * low, scale * high],
        color=_SOFT,
        linewidth=1.4,
        solid_capstyle="round",
    )
    axes.plot(
        record.round,
        scale * record.score,
        "o",
        markersize=6,
        markeredgewidth=1.4,
        markeredgecolor=_ACCENT,
        markerfacecolor=_PAPER if record.verdict == "rejected" else _ACCENT,
    )


@_styled
def drop_chart(rounds: Rounds) -> str:
    """Return each round's samples, accepted and dropped by reason; empty without samples."""
    records = [
        round_view.record for round_view in rounds if round_view.record.generated
    ]
    if not records:
        return ""
    counts = Counter[str]()
    for record in records:
        counts.update(record.dropped)
    reasons = sorted(counts, key=lambda reason: (-counts[reason], reason))
    # With more reasons than colours, the last colour is for all rare ones together.
    num_named = len(reasons)
    if num_named > len(_REASONS):
        num_named = len(_REASONS) - 1
    named = reasons[:num_named]
    rare = reasons[num_named:]
    layers = [("accepted", _ACCENT, [record.accepted for record in records])]
    for reason, colour in zip(named, _REASONS, strict=False):
        # Cut: the legend has three columns, and reasons are data.
        label = reason[:28]
        layers.append(
            (label, colour, [record.dropped.get(reason, 0) for record in records])
        )
    if rare:
        rare_counts = []
        for record in records:
            rare_counts.append(sum(record.dropped.get(reason, 0) for reason in rare))
        layers.append(("other", _REASONS[-1], rare_counts))
    legend_lines = (len(named) + 3) // 3
    # Inches: the axis, a bar a round, a line of the legend.
    height = 0.9 + 0.34 * len(records) + 0.16 * legend_lines
    figure, axes = _figure(4.0, height)
    heights = [-index for index in range(len(records))]
    bar_starts = [0.0] * len(records)
    for label, colour, widths in layers:
        axes.barh(
            heights,
            widths,
            left=bar_starts,
            height=0.62,
            color=colour,
            label=label,
            edgecolor=_PAPER,
            linewidth=0.6,
        )
        bar_starts = [
            start + width for start, width in zip(bar_starts, widths, strict=True)
        ]
    axes.set_yticks(heights, [f"round {record.round}" for record in records])
    axes.set_xlabel("samples")
    _legend(figure, columns=3)
    values = [
        f"round {record.round} accepted {record.accepted} of {record.generated}"
        for record in records
    ]
    return _svg(figure, "drops", f"Acceptance: {', '.join(values)}")


@_styled
def loss_chart(round_view: RoundView) -> str:
    """Return training and dev loss of one round; empty without a log."""
    lines = [line for line in round_view.curve if line.loss is not None]
    if not lines:
        return ""
    figure, axes = _figure(2.9, 1.9)
    steps, losses = _thinned(lines)
    axes.plot(steps, losses, color=_SOFT, linewidth=1.1, label="training")
    dev_points = [
        (line.step, line.dev_loss)
        for line in round_view.curve
        if line.dev_loss is not None
    ]
    if dev_points:
        dev_steps = [step for step, _ in dev_points]
        dev_losses = [loss for _, loss in dev_points]
        axes.plot(
            dev_steps,
            dev_losses,
            "-o",
            color=_ACCENT,
            linewidth=1.3,
            markersize=2.6,
            label="dev",
        )
    axes.set_xlabel("step")
    # From 0, so that a curve that falls by a tenth does not look like one that falls to nothing.
    bottom, _ = axes.get_ylim()
    axes.set_ylim(bottom=min(0.0, bottom))
    _legend(figure)
    number = round_view.record.round
    course = f"{losses[0]:.3f} to {losses[-1]:.3f}"
    title = f"Loss of round {number}: training {course}"
    if dev_points:
        _, last_dev_loss = dev_points[-1]
        title += f", dev at last {last_dev_loss:.3f}"
    return _svg(figure, f"loss{number}", title)


def _thinned(lines: Sequence[LogEntry]) -> tuple[list[float], list[float]]:
    """Return (steps, losses) of at most _MAX_POINTS points, each the mean over a bin of lines."""
    size = max(1, math.ceil(len(lines) / _MAX_POINTS))
    steps: list[float] = []
    losses: list[float] = []
    for begin in range(0, len(lines), size):
        bin_lines = lines[begin : begin + size]
        steps.append(fmean(line.step for line in bin_lines))
        losses.append(fmean(line.loss or 0.0 for line in bin_lines))
    return steps, losses


def _figure(width_inches: float, height_inches: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    # Not by pyplot, which would keep state between reports and look for a display.
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


def _whole_rounds(axes: Axes, numbers: Sequence[int]) -> None:
    stride = max(1, len(numbers) // 12)
    axes.set_xticks(list(numbers[::stride]))
    # Room for the marker of the first and of the last round.
    first = min(numbers)
    last = max(numbers)
    axes.set_xlim(first - 0.4, last + 0.4)


def _legend(figure: Figure, columns: int = 4) -> None:
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


def _svg(figure: Figure, name: str, title: str) -> str:
    """Return the drawing as an element of the page.

    Args:
        figure: The drawing.
        name: Prefix of all ids, unique on the page.
        title: Text for screen readers.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    # Without the salt and with a date, the same run would give other bytes every time.
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->",
        "",
        text,
        flags=re.DOTALL,
    )
    # Ids are unique in one drawing only, but all drawings stand on one page.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    # Without width and height the drawing takes the size that the page gives it.
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = html.escape(title)
    start_tag, _, content = text.partition(">")
    return (
        f'{start_tag} role="img" aria-label="{label}"><title>{label}</title>{content}'
    )
