"""A first recipe for somebody's own file, with a comment on every key that is likely to change."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import yaml
from pydantic import ValidationError

from components.contracts.artifacts import DEV_PROMPTS
from components.contracts.recipe import DataSource, Fractions, Recipe
from components.contracts.recipe_file import parse_recipe
from components.contracts.rows import Dropped
from components.errors import UserError
from components.prepare.examples import Example
from components.prepare.outlook import outlook_of
from components.prepare.readers import read_source
from components.prepare.splits import Assigned, Splits, make_splits
from components.report.words import cut
from components.storage.sources import local_path, split_source
from components.verifiers import verdict_of

VOTES = "votes"
"""`--check` for answers that count as right where a prompt's samples agree."""
MAX_ROWS_LOOKED_AT = 20_000
SHORT_ANSWER_CHARACTERS = 40
"""Rows with answers up to this length resemble each other: no near-duplicates are dropped."""
ANSWERS_LOOKED_AT = 20
"""Where no row passes its check: an answer of code may take seconds."""
BATCH_ROWS = 16
PASSES_OVER_ROWS = 3


@dataclass(frozen=True)
class Wishes:
    """The four answers that make a recipe."""

    data: str
    """Path or URI of labelled rows."""
    model: str
    """Folder or URI of a model, or `scratch`."""
    check: str
    """Verifier of the rows, or `votes`."""
    name: str
    """Of the run and of its releases."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """`prompt_field` and `completion_field` where the names of the columns are unusual."""


@dataclass(frozen=True)
class NewRecipe:
    """A recipe that was checked, and what is known of its data."""

    text: str
    counts: Mapping[str, int]
    """Rows per split; empty for a file that is not on this machine."""
    rejected: Mapping[str, int]
    outlook: str
    """The gain that can be proved, in words; empty like the counts."""
    warning: str = ""
    """What makes the rows a poor measure; empty if nothing was seen."""


def new_recipe(wishes: Wishes, environment: Mapping[str, str]) -> NewRecipe:
    """Return a recipe for a file of labelled rows.

    The file is read, so that its columns, number of rows and lengths are known.

    Raises:
        UserError: The file or the model cannot be used, or the rows are too few to prove anything.
    """
    check = "exact" if wishes.check == VOTES else wishes.check
    source = source_of(wishes.data, check, wishes.fields)
    examples, dropped = _rows(source, environment)
    # The check of one's own code is tried by `prepare`, where that code is at hand.
    is_own = ":" in check
    splits = None
    if examples and not is_own:
        assigned: list[Assigned] = [("auto", example) for example in examples]
        try:
            splits = make_splits([*assigned, *dropped], Fractions(), seed=0)
        except UserError:
            # No split has a row where no row passes, which is no matter of their number.
            _require_accepted_answer(wishes.data, examples)
            raise
    text = _text(wishes, check, examples, len(splits.unlabelled) if splits else 1000)
    recipe = parse_recipe(yaml.safe_load(text), "the new recipe")
    outlook = _outlook(recipe, splits, wishes.data, len(examples))
    counts = splits.counts if splits else {}
    # Dev rows once: their prompts are no rows of their own.
    return NewRecipe(
        text=text,
        counts={
            name: count
            for name, count in counts.items()
            if count and name != DEV_PROMPTS
        },
        rejected=splits.rejected_counts if splits else {},
        outlook=outlook,
        warning=_warning(examples),
    )


def source_of(
    uri: str, check: str, fields: Mapping[str, str] = MappingProxyType({})
) -> DataSource:
    """Return a source that is checked by a verifier that a person named.

    Args:
        uri: Path or URI of the rows.
        check: Name of the verifier.
        fields: `prompt_field` and `completion_field` where the names of the columns are unusual.

    Raises:
        UserError: There is no such verifier.
    """
    try:
        return DataSource(uri=uri, verifier=check, **fields)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"check {check!r}: {reason}") from None


def name_of(data: str) -> str:
    """Return a name for the recipe of a file: its own, in letters that a run may have."""
    stem = Path(data).name.split(".")[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:40] or "my-model"


def _rows(
    source: DataSource, environment: Mapping[str, str]
) -> tuple[list[Example], list[Dropped]]:
    scheme, _ = split_source(source.uri, environment)
    if scheme in ("s3", "hf"):
        return [], []
    path = local_path(source.uri, environment, Path(), or_folder=True)
    examples: list[Example] = []
    dropped: list[Dropped] = []
    with naming_field_options():
        for item in read_source(
            path, source.model_copy(update={"limit": MAX_ROWS_LOOKED_AT})
        ):
            if isinstance(item, Dropped):
                dropped.append(item)
            else:
                examples.append(item)
    if not any(example.prompt for example in examples):
        raise UserError(
            f"{source.uri}: no row asks a question; a recipe needs questions with answers to "
            "measure a model by (a file is read as its name ends: .csv, .tsv, .jsonl, .json, "
            ".parquet; any other is plain text)"
        )
    return examples, dropped


@contextmanager
def naming_field_options() -> Iterator[None]:
    """Add our options to errors of the reader, which name keys of a recipe that is not there yet."""
    try:
        yield
    except UserError as error:
        if "_field" not in str(error):
            raise
        options = "here: --prompt-field NAME and --completion-field NAME"
        raise UserError(f"{error}; {options}") from None


def _require_accepted_answer(data: str, examples: list[Example]) -> None:
    """Raise UserError if the check refuses the given answer of every row that is looked at."""
    answered = [
        example for example in examples if example.prompt and example.completion
    ]
    looked_at = answered[:ANSWERS_LOOKED_AT]
    # With this check the answer of a row is a pattern, which does not match itself.
    if not looked_at or looked_at[0].verifier == "regex":
        return
    for example in looked_at:
        score = verdict_of(example.as_prompt(), example.completion or "").score
        if score >= example.check.threshold:
            return
    first = looked_at[0]
    raise UserError(
        f"{data}: the check {first.verifier} refuses the answer of every row, the first is "
        f"{cut(first.completion or '', 60)!r}; use a check that fits such answers, as "
        f"--check exact"
    )


def _warning(examples: list[Example]) -> str:
    answers = Counter(example.completion for example in examples if example.completion)
    if len(answers) != 1 or answers.total() == 1:
        return ""
    (answer,) = answers
    return (
        f"all {answers.total():,} answers are {cut(answer or '', 60)!r}: a model that says this "
        "to everything is right, and nothing else is learned"
    )


def _outlook(recipe: Recipe, splits: Splits | None, data: str, num_rows: int) -> str:
    if splits is None:
        return ""
    try:
        return outlook_of(recipe, splits.validation, len(splits.unlabelled)).in_words
    except UserError as error:
        # The keys that it names stand in no file yet; rows are what a person has.
        raise UserError(
            f"{data}: {num_rows} usable rows are too few ({error})"
        ) from None


def _text(
    wishes: Wishes, check: str, examples: list[Example], num_unlabelled: int
) -> str:
    lengths = sorted(len(example.completion or "") for example in examples) or [200]
    longest_usual = lengths[int(0.99 * (len(lengths) - 1))]
    is_short = longest_usual <= SHORT_ANSWER_CHARACTERS
    from_scratch = wishes.model == "scratch"
    # A byte is a token of a new model; a token of a language model has about four characters.
    max_new_tokens = min(
        1024, 16 + (2 * longest_usual if from_scratch else longest_usual)
    )
    longest_row = max(
        (len(e.prompt) + len(e.completion or "") for e in examples), default=1000
    )
    max_length = min(
        2048, max(128, 64 + (longest_row if from_scratch else longest_row // 2))
    )
    steps = min(1000, max(60, PASSES_OVER_ROWS * len(examples) // (2 * BATCH_ROWS)))
    rate = 0.002 if from_scratch else 0.00002
    values = {
        "name": _scalar(wishes.name),
        "model": _model(wishes.model, max_length),
        "data": _scalar(wishes.data),
        "check": _scalar(check),
        "fields": "".join(
            f"      {key}: {_scalar(name)}\n" for key, name in wishes.fields.items()
        ),
        "prompts": max(1, min(1000, num_unlabelled)),
        "max_new_tokens": max_new_tokens,
        "select": _select(wishes.check, is_short=is_short),
        "first_steps": steps * (10 if from_scratch else 1),
        "steps": steps,
        "rate": f"{rate:.5f}",
        "max_length": max_length,
    }
    return _TEMPLATE.format(**values)


def _scalar(text: str) -> str:
    """Return a text as YAML on one line, in quotes where it would be read as something else."""
    # Behind a plain scalar follows a line that ends the document.
    return yaml.safe_dump(text, width=math.inf, allow_unicode=True).split("\n")[0]


def _model(source: str, max_length: int) -> str:
    if source != "scratch":
        return f"  source: {_scalar(source)}\n"
    return (
        "  source: scratch          # made from nothing; small, for tasks of your own\n"
        "  scratch:\n"
        "    architecture: llama\n"
        "    hidden_size: 128\n"
        "    num_layers: 4\n"
        "    intermediate_size: 512\n"
        "    tokenizer: byte        # can write every text\n"
        f"    max_length: {2 * max_length}\n"
    )


def _select(check: str, *, is_short: bool) -> str:
    lines = []
    if check == VOTES:
        lines += [
            "  verifier: false          # answers are not looked up: agreement decides",
            "  min_vote_share: 0.6      # of a prompt's samples have to give the same answer",
        ]
    else:
        lines.append("  verifier: true           # accept what the check above accepts")
    if is_short:
        lines += [
            "  # Short answers to questions of one form resemble each other; 1 drops equal rows alone.",
            "  minhash_threshold: 1.0",
        ]
    lines.append("  min_accepted: 8          # fewer new rows than this teach nothing")
    return "\n".join(lines)


_TEMPLATE = """\
# Written by `ratchet init`. `ratchet schema` lists every key with its meaning.
name: {name}
seed: 0

model:
{model}
data:
  sources:
    # One file is enough: it is divided by a hash of each prompt, so no prompt is in two splits.
    # Other column names: prompt_field and completion_field. More columns for a checker of your own:
    # reference_fields.
    - uri: {data}
      verifier: {check}
{fields}  # fractions: {{train: 0.7, dev: 0.1, validation: 0.1, test: 0.1}}   # half of train is asked

generate:
  prompts_per_round: {prompts}
  samples_per_prompt: 4
  temperature: 0.8
  max_new_tokens: {max_new_tokens}

select:
{select}

train:
  first: {{steps: {first_steps}, learning_rate: {rate}}}   # round 0: labelled rows alone
  rounds: {{steps: {steps}, learning_rate: {rate}}}
  batch_size: 16
  micro_batch_size: 16
  max_length: {max_length}           # of a row, in tokens
  zero: 0                   # one process

decide:
  goal: {{threshold: 0.9}}    # validation accuracy at which the campaign ends
  max_rounds: 3             # fewer rounds prove smaller gains

publish:
  name: {name}              # releases of one name replace each other
"""
