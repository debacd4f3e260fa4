"""The recipe's section `data`: files of rows, and tasks whose answers a program checks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from components.canonical import JsonObject
from components.contracts.recipe.section import Positive, Section, Share
from components.contracts.verifier_names import checked_name, own_name

BUILTIN_TASK_NAMES = ("reverse", "copy", "addition")
"""Tasks of `components.verifiers.builtin_tasks`, which a recipe names."""


class DataSource(Section):
    """A file of labelled rows, questions without answers, or raw text.

    JSON Lines, a JSON array, CSV, TSV, Parquet, Arrow or plain text, also compressed by gzip; or a
    folder that `Dataset.save_to_disk` wrote.
    """

    uri: str
    """A path, file://, s3://, hf://datasets/org/name@revision/file, or package://module/file."""
    format: Literal[
        "auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "text"
    ] = "auto"
    """`auto` tells it by the file's ending, or else by its first bytes."""
    split: Literal[
        "auto",
        "train",
        "dev",
        "unlabelled",
        "validation",
        "test",
        "vault",
        "audit",
        "retention",
    ] = "auto"
    """The split all its rows go to; `auto` divides them by `data.fractions`, by hash of the
    prompt: one labelled file is enough."""
    # Usable ones, so that a file with many bad rows gives as many.
    limit: Positive | None = None
    """Read at most this many usable rows."""
    prompt_field: str = "prompt"
    """Column or key of the question. The usual pairs (question and answer, instruction, input and
    output, …) are found without it."""
    completion_field: str = "completion"
    """Column or key of the answer; `chosen` for preference pairs."""
    verifier: str = "exact"
    """Check of answers to these rows' prompts against their completion: `exact`, `numeric`, `math`,
    `choice`, `regex`, `code` (a program that must pass the row's tests), `sql` (a query that must
    give what the completion gives), `json_schema` (JSON that the row's schema accepts), a score of
    how near a text is to its references (`chrf`, `bleu`, `rouge_l`, `wer`, `cer`), or a function of
    your own, `my_checker.py:check` (a file beside the recipe) or `module:function`."""
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """For `numeric`: a number this near to the completion is right."""
    relative_tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The same as a share of the completion: 0.01 is 1 %. The larger of the two counts."""
    tests_field: str = "tests"
    """Field of a row with its tests, for verifier `code`."""
    tables_field: str = "tables"
    """Field of a row with the SQL that makes its tables, for verifier `sql`."""
    schema_field: str = "schema"
    """Field of a row with its JSON schema, for verifier `json_schema`."""
    json_schema: JsonObject | None = None
    """JSON schema of all rows of the source, instead of one in each row."""
    reference_fields: tuple[str, ...] = ()
    """Other fields of a row that the verifier gets beside the completion."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Score from which on an answer is right, for a verifier that grades."""
    check_seconds: Annotated[int, Field(ge=1, le=600)] = 10
    """Time for one answer, for `code`, `sql`, `json_schema` and your own verifier."""
    check_memory_mb: Annotated[int, Field(ge=64)] = 2048
    """Memory of its process."""

    @field_validator("verifier", mode="after")
    @classmethod
    def _known_verifier(cls, verifier: str) -> str:
        return checked_name(verifier)

    @field_validator("json_schema", mode="after")
    @classmethod
    def _whole_numbers(cls, schema: JsonObject | None) -> JsonObject | None:
        return (
            None
            if schema is None
            else {name: _whole(value) for name, value in schema.items()}
        )

    @model_validator(mode="after")
    def _settings_are_of_their_verifier(self) -> DataSource:
        if (self.tolerance or self.relative_tolerance) and self.verifier != "numeric":
            raise ValueError(
                "tolerance and relative_tolerance are for `verifier: numeric`"
            )
        if self.json_schema is not None and self.verifier != "json_schema":
            raise ValueError("json_schema is for `verifier: json_schema`")
        return self


class Ladder(Section):
    """A difficulty ladder over the length of a built-in task (2502.01612)."""

    labelled: tuple[Positive, Positive] = (1, 8)
    """Shortest and longest problem with a label."""
    climb: tuple[Positive, Positive] = (9, 12)
    """First and last length the model teaches itself."""
    # Without mastery the loop ends in an avalanche even with perfect filtering: of models that went
    # one length further each round the accuracy fell 0.82, 0.66, 0.55, 0.38, … 0.04.
    mastery: Share = 0.97
    """Accuracy on dev prompts of the newest length before going one further."""

    @model_validator(mode="after")
    def _ordered(self) -> Ladder:
        if not self.labelled[0] <= self.labelled[1] < self.climb[0] <= self.climb[1]:
            raise ValueError(
                "labelled and climb must be [shortest, longest] and climb must begin beyond "
                "labelled"
            )
        return self


class TaskSource(Section):
    """A procedural task: questions made by a program, answers checked by its own function."""

    task: str
    """`reverse`, `copy`, `addition`, `reasoning_gym/<name>`, or a class of your own,
    `my_task.py:Sorting` (a file beside the recipe) or `module:Class`."""
    config: JsonObject = Field(default_factory=dict)
    """Settings of the reasoning-gym data set. Whole numbers are ints here."""
    labelled: Annotated[int, Field(ge=0)] = 200
    """Rows whose answer may be trained on."""
    dev: Annotated[int, Field(ge=0)] | None = None
    """Labelled rows kept apart for early stopping, and prompts that the plan of a round is made by:
    causes, reviews of changes, mastery (on a ladder spread over `labelled[1]..climb[1]`, like
    validation). null: as many as `validation`."""
    unlabelled: Positive = 1000
    """Prompts without answers for self-training (per length on a ladder)."""
    validation: Positive = 200
    test: Positive = 200
    # Opened once a model: a set that is looked at again and again decides nothing any more.
    vault: Annotated[int, Field(ge=0)] = 0
    """Prompts that no round sees: `publish` measures the published model on them, once."""
    # Filters are judged by lower bounds of 95 %, which few prompts keep wide.
    audit: Annotated[int, Field(ge=0)] = 0
    """Prompts whose answers tell how good the filters of `select` are (per climbing length on a
    ladder); each round answers them too and trains on none of it. 200 and more tell something."""
    ladder: Ladder | None = None

    @property
    def num_dev(self) -> int:
        """Size of the dev split."""
        return self.validation if self.dev is None else self.dev

    @field_validator("config", mode="after")
    @classmethod
    def _whole_numbers(cls, config: JsonObject) -> JsonObject:
        # KFP keeps parameters in a protobuf whose numbers are all floats: 4 comes as 4.0, which
        # reasoning-gym refuses, and which would give the same recipe another digest.
        return {name: _whole(value) for name, value in config.items()}

    @model_validator(mode="after")
    def _known(self) -> TaskSource:
        has_lengths = self.task in BUILTIN_TASK_NAMES or own_name(self.task) is not None
        if has_lengths and self.ladder is None:
            raise ValueError(
                f"task {self.task} needs a `ladder` section (the lengths to label and to climb)"
            )
        if not has_lengths and not self.task.startswith("reasoning_gym/"):
            names = ", ".join(BUILTIN_TASK_NAMES)
            raise ValueError(
                f"unknown task {self.task!r}: use one of {names}, reasoning_gym/<name>, or a class "
                "of your own as my_task.py:Sorting or module:Class"
            )
        if not has_lengths and self.ladder is not None:
            raise ValueError(
                "`ladder` is for built-in tasks and classes of your own; set a reasoning-gym task's "
                "difficulty in `config`"
            )
        return self


class Fractions(Section):
    """Shares of the splits that rows of `split: auto` sources are divided into."""

    train: Share = 0.7
    # A model that is asked what it was trained on repeats short answers, and every one of them is a
    # duplicate of its labelled row.
    unlabelled: Share | None = None
    """Rows whose answers only the verifier sees: the model teaches itself on their prompts. null:
    half of train's share, unless a source or task gives unlabelled prompts; 0: the questions of the
    train split are asked again."""
    dev: Share = 0.1
    validation: Share = 0.1
    test: Share = 0.1

    @model_validator(mode="after")
    def _sum(self) -> Fractions:
        shares = [
            self.train,
            self.unlabelled or 0.0,
            self.dev,
            self.validation,
            self.test,
        ]
        # With room for rounding: 0.7 + 0.1 + 0.1 + 0.1 is not 1 in binary.
        if abs(sum(shares) - 1.0) > 1e-6:
            names = "train + dev + validation + test"
            if self.unlabelled is not None:
                names = "train + unlabelled + dev + validation + test"
            raise ValueError(f"{names} must be 1")
        return self


class TextBlocks(Section):
    """Blocks that raw text is cut into where it is all there is: a campaign of text.

    A block is to a campaign of text what a question is to others: it is trained on, or its loss is
    measured, or the model continues its beginning.
    """

    block: Annotated[int, Field(ge=50)] = 800
    """Characters of a block, about: it ends at a blank. Paragraphs of a plain text file are joined
    up to this; other rows are documents, and share no block."""
    beginning: Annotated[int, Field(ge=1)] = 160
    """Characters at its front that the model continues."""
    # Neighbouring blocks are about the same things, so a measured one would be half known.
    stretch: Positive = 8
    """Neighbouring blocks that belong to one split. Where two splits meet, a block is left out, and
    the gate takes the blocks of a stretch as one result."""

    @model_validator(mode="after")
    def _something_is_left(self) -> TextBlocks:
        if self.beginning >= self.block:
            raise ValueError(
                f"beginning ({self.beginning}) must be shorter than block ({self.block})"
            )
        return self


class DataSection(Section):
    """Data files and procedural tasks; splits are disjoint by prompt and checked."""

    sources: tuple[DataSource, ...] = ()
    tasks: tuple[TaskSource, ...] = ()
    fractions: Fractions = Fractions()
    text: TextBlocks = TextBlocks()
    checker_code: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """SHA-256 of the code of your own verifiers in the store. `run` and `submit` set it."""

    @model_validator(mode="after")
    def _something(self) -> DataSection:
        if not self.sources and not self.tasks:
            raise ValueError("give at least one entry in `sources` or `tasks`")
        return self

    def can_fill(self, split: Literal["validation", "test"]) -> bool:
        """Return whether some task or source can give rows of a split that every campaign needs."""
        share: float = getattr(self.fractions, split)
        by_fractions = share > 0 and self._has("auto")
        return bool(self.tasks) or by_fractions or self._has(split)

    def _has(self, split: str) -> bool:
        return any(source.split == split for source in self.sources)

    @property
    def own_code(self) -> tuple[str, ...]:
        """Verifiers and tasks that are functions and classes of the user's, each once."""
        names = {source.verifier for source in self.sources} | {
            task.task for task in self.tasks
        }
        return tuple(sorted(name for name in names if own_name(name) is not None))

    @property
    def ladder(self) -> Ladder | None:
        """Difficulty ladder of the campaign: that of the first task that has one, or None."""
        ladders = (task.ladder for task in self.tasks)
        return next((ladder for ladder in ladders if ladder is not None), None)


def _whole(value: object) -> object:
    """Return a JSON value with an int for every float that is a whole number."""
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
