"""Rows of each optimizer step: drawn by weight, grouped by length, the same for any number of
processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from components.contracts.recipe import Augmentation
from components.contracts.rows import TrainingRow
from components.errors import UserError
from components.modeling.encoding import Codec, Encoded, Span, Turns, windows
from components.modeling.likelihood import EncodedRow
from components.train.process.changeable import changeable_spans

GROUP = 16
"""Batches that are sorted by length together."""


TooLongRule = Literal["drop", "cut", "error"]
"""`train.too_long` of the recipe."""


@dataclass(frozen=True)
class TooLong:
    """The rows that were longer than allowed, and were left out or cut."""

    names: list[str]
    """Their ids."""
    longest: int
    """Tokens of the longest of them; 0 without any."""


@dataclass(frozen=True)
class TrainingSet:
    """Encoded rows of one stage of training. The lists are parallel."""

    rows: list[EncodedRow]
    shares: list[float]
    """Frequency with which each row is drawn, relative to the others."""
    names: list[str]
    """Id of the training row that each row is from. A long text makes several rows."""
    too_long: TooLong = field(default_factory=lambda: TooLong([], 0))
    going_on: frozenset[str] = frozenset()
    """Ids of raw text that was cut out of a longer one or into windows, and of answers that were cut
    off as they were sampled: not all of their rows end."""


def training_set(
    rows: Sequence[TrainingRow],
    codec: Codec,
    stage: str,
    *,
    with_text: bool,
    max_length: int,
    weighting: str,
    turns: Turns = "all",
    with_pairs: bool = False,
    with_sampled: bool = False,
    too_long: TooLongRule = "drop",
    augmentation: Augmentation | None = None,
) -> TrainingSet:
    """Return the rows of one stage.

    Args:
        rows: all rows of the mix.
        codec: of the model.
        stage: `pretrain` takes raw text alone; `sft` takes rows with a prompt.
        with_text: the sft stage takes raw text too.
        max_length: longest row in tokens. Raw text is cut into windows of this size.
        weighting: a row's weight is how often it is drawn (`sampling`), or how much it counts in
            the loss (`loss`, relative to the mean weight).
        turns: of a conversation, the assistant's turns that bear loss.
        with_pairs: rows keep the worse answer that they have.
        with_sampled: rows keep the likelihoods under which they were drawn.
        too_long: what becomes of a row with a prompt that is longer than `max_length`.
        augmentation: noise on the rows of the stage, which are told what it may change.

    Raises:
        UserError: there is nothing to learn from, or a row is too long and may not be.
    """
    chosen = [row for row in rows if is_of_stage(row, stage, with_text=with_text)]
    if not chosen:
        needed = (
            "raw text (rows without a prompt)"
            if stage == "pretrain"
            else "rows with a prompt"
        )
        raise UserError(
            f"train: the {stage} stage learns from {needed}, and none of the {len(rows)} rows is "
            "that"
        )
    encoded: list[EncodedRow] = []
    shares: list[float] = []
    names: list[str] = []
    going_on = {row.id for row in chosen if row.goes_on}
    mean_weight = sum(row.weight for row in chosen) / len(chosen)
    for row in chosen:
        loss_weight = row.weight / mean_weight if weighting == "loss" else 1.0
        share = row.weight if weighting == "sampling" else 1.0
        pieces = _encoded(row, codec, max_length, turns)
        # All windows of a text but the last one go on.
        if row.is_text and len(pieces) > 1:
            going_on.add(row.id)
        spans: list[tuple[Span, ...]] = [() for _ in pieces]
        if augmentation is not None:
            spans = changeable_spans(
                row, pieces, codec, turns, prompts=augmentation.prompts
            )
        for piece, changeable in zip(pieces, spans, strict=True):
            piece_row = EncodedRow(
                piece.ids,
                piece.num_masked,
                loss_weight,
                piece.gaps,
                wrong=row.wrong,
                changeable=changeable,
            )
            if with_pairs:
                piece_row = _with_worse(piece_row, row, codec)
            # Of another length they are of other tokens: another tokenizer drew the sample.
            if with_sampled and len(row.log_probabilities) == piece_row.num_targets:
                piece_row = replace(piece_row, sampled=row.log_probabilities)
            encoded.append(piece_row)
            shares.append(share)
            names.append(row.id)
    fitted, long_rows = _fitted(encoded, names, max_length, too_long, stage)
    if not any(fitted):
        raise _too_long_error(encoded, max_length, stage)
    kept = [index for index, row in enumerate(fitted) if row is not None]
    return TrainingSet(
        rows=[row for row in fitted if row is not None],
        shares=[shares[index] for index in kept],
        names=[names[index] for index in kept],
        too_long=long_rows,
        going_on=frozenset(going_on),
    )


def _with_worse(encoded: EncodedRow, row: TrainingRow, codec: Codec) -> EncodedRow:
    """Return an encoded row with the worse answer of its training row, if that has one."""
    if row.worse is None:
        return encoded
    conversation = row.conversation
    prompt = row.prompt if conversation is None else conversation.before_answer
    ids, num_masked = codec.sampled_ids(prompt, row.worse)
    return replace(encoded, worse=EncodedRow(ids, num_masked))


def is_of_stage(row: TrainingRow, stage: str, *, with_text: bool) -> bool:
    """Return whether a stage learns from a row; see `training_set`."""
    if row.prompt and not row.is_text:
        return stage == "sft"
    return stage == "pretrain" or with_text


def balanced(
    wrong_rows: Sequence[TrainingRow], rows: Sequence[TrainingRow]
) -> list[TrainingRow]:
    """Return wrong answers with weights whose sum is that of the other rows.

    So half of what is drawn is wrong, however many samples of the round are: with equal weights in
    the loss that is the balance of 2402.01306, section 4.2.
    """
    wrong_weight = sum(row.weight for row in wrong_rows)
    scale = sum(row.weight for row in rows) / wrong_weight if wrong_weight else 1.0
    return [row.model_copy(update={"weight": row.weight * scale}) for row in wrong_rows]


def dev_set(
    rows: Sequence[TrainingRow],
    codec: Codec,
    max_length: int,
    turns: Turns = "all",
    too_long: TooLongRule = "drop",
) -> tuple[list[EncodedRow], TooLong]:
    """Return (dev rows, prompts masked, raw text in windows; those that were too long).

    Raises UserError for a row that is longer than `max_length` tokens where the rule says so.
    """
    encoded: list[EncodedRow] = []
    names: list[str] = []
    for row in rows:
        for piece in _encoded(row, codec, max_length, turns):
            encoded.append(EncodedRow(piece.ids, piece.num_masked, gaps=piece.gaps))
            names.append(row.id)
    fitted, long_rows = _fitted(encoded, names, max_length, too_long, "dev")
    return [row for row in fitted if row is not None], long_rows


def _encoded(
    row: TrainingRow, codec: Codec, max_length: int, turns: Turns
) -> list[Encoded]:
    encoded = codec.encode(row, turns)
    if row.prompt and not row.is_text:
        return encoded
    return windows(encoded[0].ids, encoded[0].num_masked, max_length)


def _fitted(
    rows: Sequence[EncodedRow],
    names: Sequence[str],
    max_length: int,
    rule: TooLongRule,
    subject: str,
) -> tuple[list[EncodedRow | None], TooLong]:
    """Return (rows that fit, None for one that is left out; those that were too long).

    Args:
        rows: encoded rows.
        names: id of each row.
        max_length: longest row in tokens.
        rule: what becomes of longer ones.
        subject: the stage or split, for the error.
    """
    fitted: list[EncodedRow | None] = []
    long_names: list[str] = []
    longest = 0
    for row, name in zip(rows, names, strict=True):
        if row.longest <= max_length:
            fitted.append(row)
            continue
        long_names.append(name)
        longest = max(longest, row.longest)
        fitted.append(cut_at(row, max_length) if rule == "cut" else None)
    if long_names and rule == "error":
        raise _too_long_error(rows, max_length, subject)
    # A long conversation may be several pieces of one row.
    return fitted, TooLong(list(dict.fromkeys(long_names)), longest)


def cut_at(row: EncodedRow, max_length: int) -> EncodedRow | None:
    """Return the beginning of a row; None if it holds nothing to learn."""
    worse = None if row.worse is None else cut_at(row.worse, max_length)
    short = replace(
        row,
        ids=row.ids[:max_length],
        gaps=_spans_before(max_length, row.gaps),
        worse=worse,
        changeable=_spans_before(max_length, row.changeable),
    )
    if row.sampled:
        short = replace(short, sampled=row.sampled[: max(0, short.num_targets)])
    # A pair of which one half is gone is no pair.
    is_half = row.worse is not None and worse is None
    return None if short.num_targets <= 0 or is_half else short


def _spans_before(position: int, spans: Sequence[Span]) -> tuple[Span, ...]:
    """Return stretches as far as they are before a position."""
    return tuple(
        (start, min(end, position)) for start, end in spans if start < position
    )


def _too_long_error(
    rows: Sequence[EncodedRow], max_length: int, subject: str
) -> UserError:
    count = sum(row.longest > max_length for row in rows)
    longest = max(row.longest for row in rows)
    return UserError(
        f"{subject}: {count} of {len(rows)} rows are longer than train.max_length {max_length} "
        f"(longest {longest} tokens): raise it or remove them"
    )


def draw(weights: Sequence[float], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return `count` row indices in random order, row i about count·w_i/Σw times."""
    shares = np.asarray(weights, dtype=np.float64)
    generator = np.random.Generator(np.random.PCG64(seed))
    # Systematic resampling: every row is drawn its expected number of times to within one, and
    # equal weights give whole epochs.
    order = generator.permutation(len(shares))
    edges = np.cumsum(shares[order]) / shares.sum() * count
    ticks = np.arange(count) + generator.random()
    # Rounding may leave the last edge a little short of the last tick.
    picked = np.searchsorted(edges, ticks, side="right")
    picked = np.minimum(picked, len(shares) - 1)
    return generator.permutation(order[picked])


def plan_batches(
    weights: Sequence[float],
    lengths: Sequence[int],
    steps: int,
    batch_size: int,
    *,
    group_by_length: bool,
    seed: int,
) -> list[list[int]]:
    """Return `steps` lists of `batch_size` row indices.

    Args:
        weights: of the rows; see `draw`.
        lengths: of the rows, in tokens.
        steps: optimizer steps.
        batch_size: rows of a step, over all processes.
        group_by_length: rows of similar length share a batch, so that padding is small.
        seed: of the draw and of the order.
    """
    drawn = draw(weights, steps * batch_size, seed)
    generator = np.random.Generator(np.random.PCG64(seed + 1))
    batches: list[list[int]] = []
    # Sorted within GROUP batches at a time, and the batches then shuffled: every part of training
    # still sees all lengths.
    for start in range(0, len(drawn), GROUP * batch_size):
        group = drawn[start : start + GROUP * batch_size]
        if group_by_length:
            group_lengths = [lengths[index] for index in group]
            group = group[np.argsort(group_lengths, kind="stable")]
        group_batches = []
        for first in range(0, len(group), batch_size):
            group_batches.append(group[first : first + batch_size].tolist())
        for index in generator.permutation(len(group_batches)):
            batches.append(group_batches[index])
    return batches


def share_of(
    batch: Sequence[int], lengths: Sequence[int], rank: int, world_size: int
) -> list[int]:
    """Return the rows of a batch that one process works on, longest first.

    They are every world_size-th by length, so all processes have about the same work.
    """
    ordered = sorted(batch, key=lambda index: (-lengths[index], index))
    return ordered[rank::world_size]


def cut(lengths: Sequence[int], most_rows: int, fixed_positions: int) -> list[slice]:
    """Cut rows that lie sorted by length into micro-batches of neighbours, at the least cost.

    The cost of a micro-batch is its positions, padding included, and `fixed_positions`.

    Args:
        lengths: of the rows in tokens, longest first.
        most_rows: rows of a micro-batch.
        fixed_positions: fixed cost of a forward and backward pass, in positions.
    """
    # Dynamic programming: costs[end] is the least cost of the first `end` rows, and starts[end] the
    # start of the last micro-batch among them.
    costs = [0]
    starts = [0]
    for end in range(1, len(lengths) + 1):
        cost, start = min(
            (costs[start] + (end - start) * lengths[start] + fixed_positions, start)
            for start in range(max(0, end - most_rows), end)
        )
        costs.append(cost)
        starts.append(start)
    slices: list[slice] = []
    end = len(lengths)
    while end:
        slices.append(slice(starts[end], end))
        end = starts[end]
    return slices[::-1]


def learning_rate_at(
    step: int,
    steps: int,
    peak: float,
    *,
    warmup_share: float,
    schedule: str,
    min_ratio: float,
) -> float:
    """Return the learning rate of a step, from 0.

    A linear warm-up to `peak`, then `constant`, or a cosine down to min_ratio·peak at the last step
    (1608.03983).
    """
    warmup = max(1, round(warmup_share * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    steps_after_warmup = max(1, steps - warmup - 1)
    progress = min((step - warmup) / steps_after_warmup, 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (min_ratio + (1 - min_ratio) * cosine)
