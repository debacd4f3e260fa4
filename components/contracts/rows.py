"""The rows that steps hand to each other, and bounded readers and writers for them.

Rows are JSON Lines: one object a line, UTF-8, at most MAX_LINE_BYTES bytes a line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.canonical import JsonObject, canonical_json, normalised_text
from components.errors import Corrupt

# A book fits. Without a bound one line of a damaged file could take all memory.
MAX_LINE_BYTES = 4 * 1024 * 1024

MAX_CLASSES = 64
"""With more different labels, rows of text and label are no classification."""
Split = Literal[
    "train",
    "dev",
    "dev_prompts",
    "unlabelled",
    "validation",
    "test",
    "vault",
    "audit",
    "retention",
]


class Row(BaseModel):
    """Base of every row: immutable, no unknown fields."""

    # A field that the reader does not know comes from another version: better an error than a row
    # that means something else.
    model_config = ConfigDict(frozen=True, extra="forbid")


class Conversation(Row):
    """Several turns, as the model's own chat template takes them."""

    messages: tuple[JsonObject, ...] = Field(min_length=1)
    """Each with `role`, `content` and other fields that templates read, such as `tool_calls`."""
    tools: tuple[JsonObject, ...] = ()
    """JSON schemas of the functions that the assistant may call."""

    @property
    def before_answer(self) -> Conversation:
        """The conversation without its last turn."""
        return self.model_copy(update={"messages": self.messages[:-1]})

    def as_text(self) -> str:
        """Return the turns as text, for models without a chat template and for people."""
        if len(self.messages) == 1:
            return spoken(self.messages[0])
        turns: list[str] = []
        for message in self.messages:
            turns.append(f"{message['role'].capitalize()}: {spoken(message)}")
        return "\n\n".join(turns)


def spoken(message: JsonObject) -> str:
    """Return the text of a turn: its content, or the calls of one that only calls tools."""
    content = message.get("content")
    if content:
        return str(content)
    calls = message.get("tool_calls")
    return canonical_json(calls).decode() if calls else ""


class Beginning(Row):
    """The beginning of a text that goes on: no question, so it stands in no chat template."""

    text: str
    """Empty: a text is written from nothing."""


class OpenTurn(Row):
    """The turn of a user that has begun and holds nothing yet: a chat model goes on as the user."""


Asked = str | Conversation | Beginning | OpenTurn
"""Everything that a model can be asked to go on from; a plain text is one turn of the user."""


class Check(Row):
    """Settings by which a verifier checks the answers to a prompt."""

    threshold: float = 0.5
    """An answer with at least this score is right; most verifiers give 0 or 1."""
    seconds: int = 10
    """Time for one answer, where code is run for it."""
    memory_mb: int = 2048
    """Memory of the process that runs the code."""
    tolerance: float = 0.0
    """A number this near to the reference is right."""
    relative_tolerance: float = 0.0
    """The same, as a share of the reference; the larger of the two counts."""
    code: str = ""
    """SHA-256 of the bundle that holds the user's own verifier."""


class Prompt(Row):
    """A question the model is to answer."""

    id: str
    """`prompt_id(text)`: equal texts have equal ids, so splits can be compared by id."""
    text: str
    """Message of the user, before any chat template."""
    conversation: Conversation | None = None
    """The turns that `text` tells, if it is more than one of the user's; the answer comes next."""
    verifier: str
    """Name of the entry of `components.verifiers` that checks an answer, or of a function of the
    user's (`module:function`)."""
    check: Check = Check()
    """Settings of that verifier."""
    reference: JsonObject = Field(default_factory=dict)
    """Data of that verifier (a reference answer, a puzzle's metadata). Never shown to the model,
    but for the answer where the recipe asks for `generate.hints`."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Slices this prompt belongs to: {"task": "gcd"}, {"length": "9"}."""
    is_text: bool = False
    """`text` is the beginning of raw text, and the reference's `answer` the rest of its block."""
    goes_on: bool = False
    """The block was cut out of a longer text: no end follows it."""
    opens_turn: bool = False
    """The model is to write the user's message; `text` is empty."""
    stretch: str = ""
    """Stretch of neighbouring blocks that a block of raw text is from. Results within one are not
    independent. Empty: the prompt stands alone."""

    @property
    def asked(self) -> Asked:
        """The input of a model, before any chat template."""
        if self.opens_turn:
            return OpenTurn()
        if self.is_text:
            return Beginning(text=self.text)
        return self.text if self.conversation is None else self.conversation


def label_of(prompt: Prompt) -> str:
    """Return the right class of a prompt made from a text and its label; empty for any other."""
    label = prompt.tags.get("label", "")
    # Any source may have a tag of this name: only where it is the answer is it a class.
    return label if label and label == prompt.reference.get("answer") else ""


class Sample(Row):
    """One answer of a model to one prompt."""

    prompt_id: str
    index: int
    """Number among the k samples of this prompt, from 0."""
    # Derived from the prompt and the index, so neither shards nor a resumed run change an answer.
    seed: int
    """The seed of this sample alone: the same (model, prompt, seed) gives the same answer."""
    text: str
    num_tokens: int
    finished: bool
    """True if the model itself ended the answer; False if `max_new_tokens` cut it off."""
    log_probabilities: tuple[float, ...] = ()
    """log π of each token that the answer teaches, in nats, by the model that drew it, without
    temperature: for `train.method` raft. Empty where they are not needed or not known."""
    no_answer: str = ""
    """Reason why an endpoint gave no answer (it refused the prompt, or only thought about it), with
    the endpoint's words. The text is empty then. Empty for an answer."""


class HardPrompt(Row):
    """A prompt that no sample answered right, waiting for a hint."""

    prompt_id: str
    round: int
    """The last round that found it too hard."""
    hints: int = 0
    """Rounds in which its answer was given as a hint and no sample was accepted all the same."""


class TrainingRow(Row):
    """One row of a training mix.

    The loss falls on the completion alone; raw text has an empty prompt.
    """

    id: str
    prompt: str
    completion: str
    conversation: Conversation | None = None
    """All turns, if they are more than a question and its answer; `completion` is the last."""
    worse: str | None = None
    """A wrong answer of the model to the same prompt, for `train.method` dpo and rpo."""
    wrong: bool = False
    """The completion is a wrong answer of the model, to become less likely: for `train.method` kto.
    No mix has such rows; they are in a file of their own."""
    log_probabilities: tuple[float, ...] = ()
    """Of the sample, for `train.method` raft; empty where they are not known."""
    source: Literal["labelled", "self"]
    round: int
    """The round whose samples it came from; 0 for labelled rows."""
    # Filters that rank rows set it; the mix scales it, so that each group of rows has its share.
    weight: float = 1.0
    """Frequency with which it is drawn, relative to the other rows of the mix."""
    tags: dict[str, str] = Field(default_factory=dict)
    provenance: JsonObject = Field(default_factory=dict)
    """Model digest, prompt id, sample index, scores: why this row may teach."""
    is_text: bool = False
    """A block of raw text, whose beginning `prompt` is, perhaps empty. Without this, raw text is a
    whole document."""
    goes_on: bool = False
    """The block was cut out of a longer text, or the answer was cut off as it was sampled: no end is
    learned behind it."""

    @property
    def asked(self) -> Asked:
        """The input of a model, before the answer and any chat template."""
        if self.is_text:
            return Beginning(text=self.prompt)
        if self.conversation is not None:
            return self.conversation.before_answer
        return self.prompt

    @property
    def label(self) -> str:
        """The class of a row of text and label; empty for any other row."""
        label = self.tags.get("label", "")
        # Any source may have a tag of this name: only where it is the answer is it a class.
        return label if label == self.completion else ""


class Dropped(Row):
    """A row that a reader or filter refused, kept beside the accepted."""

    # Stored, not only counted: a person has to see what a filter takes away.
    reason: str
    """The filter or reader rule, a short fixed word such as `verifier` or `duplicate`."""
    detail: str
    row: JsonObject


class Result(Row):
    """Result of a model on one evaluation prompt."""

    prompt_id: str
    split: Literal["dev", "validation", "test", "vault"]
    correct: bool
    """Verdict on the greedy answer."""
    score: float | None = None
    """The verifier's score of that answer, 0 to 1; right from the prompt's threshold on. None in
    older results, and where nothing was answered."""
    # The answers are kept, so that other measures need no second sampling.
    text: str
    finished: bool
    num_tokens: int
    num_samples: int = 0
    """Extra samples drawn for pass@k."""
    num_correct: int = 0
    """Right ones of those samples."""
    label: str = ""
    """The right class of a row that people brought as text and label; empty for other rows."""
    predicted: str = ""
    """The class that the model finds most likely; empty where it was not asked for."""
    label_error: float | None = None
    """Squared distance of the probabilities of the classes to the right class (Brier 1950), 0 to 2;
    None where it was not asked for."""
    numeric: bool = False
    """Right is a number: the verifier is `numeric`."""
    error: float | None = None
    """Answer minus reference of a numeric row; None if the answer holds no number (or one beyond
    1e100)."""
    loss: float | None = None
    """Nats per token of the reference answer, of raw text those of the whole block; None where the
    goal is no perplexity, or without such an answer."""
    loss_tokens: int = 0
    """Tokens of that loss."""
    stretch: str = ""
    """As in `Prompt`."""
    tags: dict[str, str] = Field(default_factory=dict)


class TextResult(Row):
    """Likelihood of a text that people wrote: each token of its completion after the true ones."""

    id: str
    split: Literal["retention", "dev"]
    loss: float
    """Nats per token."""
    num_tokens: int
    num_right: int
    """Tokens that the model finds more likely than any other."""
    tags: dict[str, str] = Field(default_factory=dict)

    @property
    def token_accuracy(self) -> float:
        """Share of right tokens: a score in [0, 1] that can be paired."""
        return self.num_right / self.num_tokens

    @property
    def correct(self) -> bool:
        """Every token is right: greedy decoding would say this very text and end."""
        return self.num_right == self.num_tokens


def answered(prompt: Prompt, text: str) -> Conversation | None:
    """Return the conversation of a prompt with an answer as its last turn; None if it has none."""
    if prompt.conversation is None:
        return None
    turns = (*prompt.conversation.messages, {"role": "assistant", "content": text})
    return prompt.conversation.model_copy(update={"messages": turns})


R = TypeVar("R", bound=BaseModel)


def front_of(text: str, size: int) -> str:
    """Return the front of a text, which ends before a blank where one is near."""
    if len(text) <= size:
        return text
    # A token of most tokenizers begins with the blank before its word.
    for end in range(size, max(size // 2, 1), -1):
        if text[end].isspace() and not text[end - 1].isspace():
            return text[:end]
    return text[:size]


def prompt_id(text: str) -> str:
    """Return the identity of a prompt: 16 hex digits of SHA-256 over its normalised text."""
    # Normalised, so that white space and Unicode forms make no two prompts of one: the copy could
    # be trained on while the original is measured on.
    return hashlib.sha256(normalised_text(text).encode()).hexdigest()[:16]


def write_rows(path: Path, rows: Iterable[BaseModel]) -> int:
    """Write rows as JSON Lines and return how many."""
    count = 0
    with path.open("wb") as file:
        for row in rows:
            # Canonical: equal rows give equal bytes, and files are stored by their digest.
            file.write(canonical_json(row.model_dump(mode="json")) + b"\n")
            count += 1
    return count


def read_rows(path: Path, kind: type[R]) -> Iterator[R]:
    """Read rows that this project wrote. A line that does not fit is Corrupt, with its number.

    For files that people bring, use `components.prepare.readers`, which rejects bad rows one by
    one.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                problem = error.errors()[0]
                raise Corrupt(
                    f"{path}, line {number}: not a {kind.__name__} row ({problem['loc']}: "
                    f"{problem['msg']})"
                ) from None
