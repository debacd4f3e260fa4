"""A look at the data through the base model's template and positions, before any work is done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from components.contracts import artifacts
from components.contracts.recipe import Recipe
from components.contracts.rows import OpenTurn, Prompt, TrainingRow, read_rows
from components.contracts.summaries import PrepareSummary, TeacherSummary
from components.errors import UserError
from components.runtime.campaign import checkpoint_in
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_summary

if TYPE_CHECKING:
    from components.modeling.encoding import Codec

LABEL_TOKENS = 12
"""Tokens of `Question 1: ` at most, as a tokenizer of bytes has them."""


def check_fit(context: Context, recipe: Recipe, prepared: Receipt) -> None:
    """Raise UserError if the base model's template, positions or layers do not suit data or recipe.

    No weight is read.
    """
    _check_layers(context, recipe, prepared)
    positions = read_summary(prepared, PrepareSummary).positions
    # The models that Ratchet makes have no chat template that could refuse a row.
    is_plain_scratch = (
        recipe.model.source == "scratch" and not recipe.model.system_prompt
    )
    if is_plain_scratch and positions is None and recipe.generate.source != "model":
        return
    codec = _codec_of(context, prepared, recipe.model.system_prompt)
    _check_conversations(context, recipe, prepared, codec)
    splits = ("unlabelled", "validation", "test", "vault", "audit")
    longest = _longest_prompt(
        context, prepared, codec, splits, count_all=positions is not None
    )
    _check_positions(recipe, longest, positions, recipe.model.source)
    if recipe.generate.teacher is None:
        _check_writing(recipe, codec, longest, positions, recipe.model.source)


def check_teacher_fit(
    context: Context, recipe: Recipe, prepared: Receipt, teacher: Receipt
) -> None:
    """Raise UserError if the teacher's template or positions do not suit what it is asked.

    Args:
        context: Store of the receipts.
        recipe: Names the teacher.
        prepared: Holds the prompts.
        teacher: Holds the teacher.
    """
    summary = read_summary(teacher, TeacherSummary)
    codec = _codec_of(context, teacher, recipe.answering_system_prompt)
    count_all = summary.positions is not None
    longest = _longest_prompt(
        context, prepared, codec, ("unlabelled", "audit"), count_all=count_all
    )
    _check_positions(recipe, longest, summary.positions, summary.source)
    _check_writing(recipe, codec, longest, summary.positions, summary.source)


def _check_layers(context: Context, recipe: Recipe, prepared: Receipt) -> None:
    """Raise UserError if layers cannot be inserted or taken out as the recipe, or a plan, may ask."""
    layers = recipe.train.layers
    if layers is None or not layers.changes_depth:
        return
    from components.modeling.blocks import check_depth, read_config

    name = f"{checkpoint_in(prepared, 0)}/{artifacts.CHECKPOINT_CONFIG}"
    config = read_config(fetch(context, prepared, name))
    check_depth(
        config, min(layers.extra, layers.min_extra), max(layers.extra, layers.max_extra)
    )


def _check_positions(
    recipe: Recipe, longest: int, positions: int | None, name: str
) -> None:
    num_new = recipe.generate.max_new_tokens
    if positions is not None and longest + num_new > positions:
        raise UserError(
            f"generate.max_new_tokens: the longest prompt has {longest} tokens, and with {num_new} "
            f"more it does not fit into the {positions} positions of model {name}: "
            "lower it, or leave long prompts out"
        )


def _check_writing(
    recipe: Recipe, codec: Codec, longest: int, positions: int | None, name: str
) -> None:
    """Raise UserError if the model cannot write prompts in the way that the recipe asks for."""
    if recipe.generate.source != "model":
        return
    settings = recipe.generate.own_prompts
    opening = codec.prompt_ids(OpenTurn()) if settings.form == "turn" else []
    num_seen = len(opening)
    if settings.form == "examples":
        instruction = len(codec.prompt_ids(settings.instruction))
        num_seen = (
            instruction + (settings.shown + 1) * LABEL_TOKENS + settings.shown * longest
        )
    if positions is not None and num_seen + settings.max_new_tokens > positions:
        raise UserError(
            f"generate.own_prompts: {settings.shown} examples and a new prompt of "
            f"{settings.max_new_tokens} tokens do not fit into the {positions} positions of model "
            f"{name}: lower `shown` or `max_new_tokens`"
        )


def _codec_of(context: Context, holder: Receipt, system_prompt: str) -> Codec:
    """Return the codec of the model in a receipt, without its weights."""
    from components.modeling.encoding import load_codec

    context.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="codec-", dir=context.scratch) as folder:
        for name in holder.objects:
            # The weights are gigabytes in the store, and a tokenizer needs none of them.
            if name.startswith("model/") and not name.endswith(".safetensors"):
                target = Path(folder) / name.removeprefix("model/")
                shutil.copyfile(fetch(context, holder, name), target)
        return load_codec(Path(folder), system_prompt)


def _check_conversations(
    context: Context, recipe: Recipe, prepared: Receipt, codec: Codec
) -> None:
    # Plain rows are one turn of the user and one of the assistant, which every template takes.
    for split in ("train", "dev", "retention"):
        path = fetch(context, prepared, artifacts.split_file(split))
        for row in read_rows(path, TrainingRow):
            if row.conversation is None:
                continue
            with _naming(f"{row.provenance.get('uri')}, {row.provenance.get('place')}"):
                codec.encode(row, recipe.train.turns)
                codec.check_heard(row.conversation)


def _longest_prompt(
    context: Context,
    prepared: Receipt,
    codec: Codec,
    splits: Sequence[str],
    *,
    count_all: bool,
) -> int:
    """Return the number of tokens of the longest prompt of some splits that is encoded.

    Conversations always are, to see that the template takes them; other prompts with `count_all`.
    """
    longest = 0
    # Counted only where there is a limit, since every prompt has to be encoded for it.
    for split in splits:
        path = fetch(context, prepared, artifacts.split_file(split))
        for prompt in read_rows(path, Prompt):
            if prompt.conversation is None and not count_all:
                continue
            with _naming(f"prompt {prompt.id} of split {split}"):
                longest = max(longest, len(codec.prompt_ids(prompt.asked)))
                if prompt.conversation is not None:
                    codec.check_heard(prompt.conversation)
    return longest


@contextmanager
def _naming(row: str) -> Iterator[None]:
    """Name the row that a model's template does not suit."""
    try:
        yield
    except UserError as error:
        raise UserError(f"data: {row}: {error}") from None
