"""Text to token ids and back, one way for training, sampling and evaluation."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from components.contracts.rows import (
    Asked,
    Beginning,
    Conversation,
    OpenTurn,
    TrainingRow,
)
from components.errors import UserError
from components.modeling.chat_template import (
    PROBE,
    Message,
    Refused,
    Tool,
    marked,
    render,
)
from components.modeling.heard_turns import HeardTurns
from components.modeling.turn_form import ANSWER, QUESTION, TurnForm
from components.modeling.turn_writer import TurnWriter

Turns = Literal["all", "last"]
"""The assistant's turns that bear loss."""
Span = tuple[int, int]
"""A stretch [start, end) of a text or of token ids."""

_SYSTEM_PROBE = f"{PROBE}!"


@dataclass(frozen=True)
class Encoded:
    """Token ids of which some bear loss."""

    ids: list[int]
    num_masked: int
    """Tokens at the front that bear no loss."""
    gaps: tuple[Span, ...] = ()
    """Stretches behind them that bear none either: turns of others in between."""


@dataclass(frozen=True)
class Codec:
    """A tokenizer with the conversation form of its model.

    With a chat template a conversation is what the template makes of it; a prompt that is text
    alone is one user turn. Without one it is <bos> prompt completion <eos>. The token that ends a
    turn belongs to the completion: a model learns to stop by it. Whatever a prompt or a completion
    spells, only the template and this class write control tokens. Raises UserError for a template
    that cannot be used, or that leaves out the system prompt.
    """

    tokenizer: PreTrainedTokenizerBase
    system_prompt: str = ""
    generation_ends: tuple[int, ...] = ()
    """Tokens that end an answer by generation_config.json."""
    num_embeddings: int | None = None
    """Rows of the model's embedding; None: one for every token."""

    def __post_init__(self) -> None:
        if not self.end_ids:
            raise UserError(
                "the model's tokenizer has no eos_token: answers could never end; set one in "
                "tokenizer_config.json"
            )
        if self.system_prompt:
            self._check_system_prompt()
        if self.template:
            self._writer.answered(self._with_system([QUESTION]), ANSWER, ())

    @functools.cached_property
    def _form(self) -> TurnForm:
        return TurnForm(self.tokenizer, self.generation_ends)

    @functools.cached_property
    def _writer(self) -> TurnWriter:
        return TurnWriter(self._form)

    @functools.cached_property
    def _heard(self) -> HeardTurns:
        return HeardTurns(self._writer)

    @property
    def template(self) -> str:
        """The chat template that conversations are rendered by; empty if there is none."""
        return self._form.template

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer, the first of them the one that training teaches."""
        return self._form.end_ids

    @property
    def pad_id(self) -> int:
        """A filler for positions that are masked everywhere, never an end token."""
        # Many models pad with their end token, whose loss must count here. A [PAD] that was added
        # without a row in the embedding cannot be used either.
        pad = self.tokenizer.pad_token_id
        num_rows = self.num_embeddings
        if (
            pad is not None
            and pad not in self.end_ids
            and (num_rows is None or pad < num_rows)
        ):
            return int(pad)
        first_ids = range(len(self.end_ids) + 1)
        return next(token_id for token_id in first_ids if token_id not in self.end_ids)

    def prompt_ids(self, prompt: Asked) -> list[int]:
        """Return everything the model sees before its answer."""
        if isinstance(prompt, Beginning):
            return self._beginning_ids(prompt.text)
        if isinstance(prompt, OpenTurn):
            return self._open_turn_ids()
        if not self.template:
            return self._start + self._text_ids(_as_text(prompt))
        opened = self._writer.opened(self._turns(prompt), _tools(prompt))
        return self._form.encoder.ids(opened)

    def completion_ids(self, completion: str) -> list[int]:
        """Return an answer as the model itself would write it, with the token that ends it."""
        return [*self._text_ids(completion, continued=True), self.end_ids[0]]

    def continued_ids(self, text: str) -> list[int]:
        """Return the token ids of a text that other text stands before."""
        return self._text_ids(text, continued=True)

    def _open_turn_ids(self) -> list[int]:
        """Return all that the template writes before the first message of a user (2406.08464).

        Raises UserError if the model has no template, or one whose user's turn ends in no end token.
        """
        if not self.template:
            raise UserError(
                "the model has no chat template, so no turn of a user can be opened: set "
                "generate.own_prompts.form to examples"
            )
        rendered = self._writer.render(self._turns(PROBE), ()).text
        before, _, after = rendered.rpartition(PROBE)
        # Else the model would go on with an answer, and nothing tells where the message ended.
        if not after.lstrip().startswith(self._form.end_tokens):
            raise UserError(
                "the model's chat template ends a message of the user by no token that ends an "
                "answer: set generate.own_prompts.form to examples"
            )
        return self._form.encoder.ids(before)

    def row_ids(self, prompt: Asked, completion: str) -> tuple[list[int], int]:
        """Return (token ids, number at the front that bear no loss) of a question and its answer.

        Raw text has an empty prompt.
        """
        if isinstance(prompt, Beginning):
            return self.text_ids(prompt.text, completion, goes_on=False)
        assert not isinstance(prompt, OpenTurn), (
            "a prompt that the model writes is no row"
        )
        if not prompt:
            # The first token of a text is predicted from nothing where there is no <bos>.
            text_ids = self._text_ids(completion)
            return [*self._start, *text_ids, self.end_ids[0]], 1
        if not self.template:
            return self.sampled_ids(prompt, completion)
        reply = {"role": "assistant", "content": completion}
        turns = self._turns(prompt)
        opened, answer = self._writer.answered(turns, reply, _tools(prompt))
        prompt_ids = self._form.encoder.ids(opened)
        return prompt_ids + self._form.encoder.ids(answer, continued=True), len(
            prompt_ids
        )

    def text_ids(
        self, beginning: str, rest: str, *, goes_on: bool
    ) -> tuple[list[int], int]:
        """Return the same as `row_ids` for raw text, whose beginning bears no loss.

        Without a beginning, all but the first token bear loss.

        Args:
            beginning: The front of the text, perhaps empty.
            rest: What follows it.
            goes_on: The text was cut here, so no token ends it.
        """
        # The first token is predicted from nothing where there is no <bos>.
        before = self._beginning_ids(beginning) if beginning else self._start
        ids = [*before, *self._text_ids(rest, continued=bool(beginning))]
        end = [] if goes_on else [self.end_ids[0]]
        return [*ids, *end], max(1, len(before))

    def sampled_ids(self, prompt: Asked, completion: str) -> tuple[list[int], int]:
        """Return the same as `row_ids` for an answer that the model wrote.

        It comes token for token as text allows: the template does not touch it.
        """
        prompt_ids = self.prompt_ids(prompt)
        return prompt_ids + self.completion_ids(completion), len(prompt_ids)

    def encode(self, row: TrainingRow, turns: Turns = "all") -> list[Encoded]:
        """Return a training row as token ids, in one or more pieces.

        A conversation whose template writes earlier turns otherwise than they are generated (Qwen3
        leaves out thoughts) comes in a piece for each turn of the assistant; all others are one.
        """
        if row.is_text:
            ids, num_masked = self.text_ids(
                row.prompt, row.completion, goes_on=row.goes_on
            )
            return [Encoded(ids, num_masked)]
        conversation = row.conversation if self.template else None
        prompt = row.prompt if conversation is None else conversation.before_answer
        # What the model wrote is what it is trained on: a template may write it otherwise (strip
        # it, move a thought).
        if row.source == "self" and row.prompt:
            ids, num_masked = self.sampled_ids(prompt, row.completion)
            # Behind a cut an end token would teach the model to stop anywhere.
            return [Encoded(ids[:-1] if row.goes_on else ids, num_masked)]
        if conversation is None:
            return [Encoded(*self.row_ids(prompt, row.completion))]
        return self._conversation(conversation, turns)

    def check_heard(self, conversation: Conversation) -> None:
        """Raise UserError if the template leaves out turns of a conversation, tools or their calls."""
        if self.template:
            self._heard.check(conversation)

    def text(self, ids: list[int]) -> str:
        """Return what the model wrote, without special tokens and otherwise untouched."""
        return self._form.encoder.text(ids)

    def _conversation(self, conversation: Conversation, turns: Turns) -> list[Encoded]:
        messages = self._with_system(conversation.messages)
        tools = conversation.tools
        roles = [message["role"] for message in messages]
        first_user = roles.index("user")
        # A greeting of the assistant before any question is no answer.
        answers = [
            index
            for index, role in enumerate(roles)
            if role == "assistant" and index > first_user
        ]
        if turns == "last":
            answers = answers[-1:]
        texts: list[str] = []
        spans: list[Span] = []
        for index in answers:
            opened, answer = self._writer.answered(
                messages[:index], messages[index], tools
            )
            text = opened + answer
            texts.append(text)
            spans.append((len(opened), len(text)))
        full_text = texts[-1]
        # Some templates write earlier turns otherwise than they were generated: then each answer is
        # trained on as it was, in a row of its own.
        if not all(full_text.startswith(text) for text in texts):
            pairs = zip(texts, spans, strict=True)
            return [self._spans(text, [span]) for text, span in pairs]
        rendered = self._writer.render(messages, tools)
        # A template may mark less than a turn as generated, its header for one.
        if rendered.generated and rendered.text.startswith(full_text):
            spans = self._narrowed(spans, rendered.generated, full_text)
        return [self._spans(full_text, spans)]

    def _narrowed(
        self, spans: Sequence[Span], generated: Sequence[Span], text: str
    ) -> list[Span]:
        """Return the parts of the assistant's turns that the template itself says are generated.

        The token that ends a turn is counted in, which not every template does.
        """
        narrowed: list[Span] = []
        for start, end in spans:
            inside: list[Span] = []
            for first, last in generated:
                if first < end and last > start:
                    inside.append((max(start, first), min(end, last)))
            if inside:
                last_start, last_end = inside[-1]
                end_token = self._writer.end_token_of(text[:end])
                behind = text[last_end:end].removesuffix(end_token)
                if not behind.strip():
                    inside[-1] = (last_start, end)
            narrowed += inside
        return narrowed or list(spans)

    def _spans(self, text: str, spans: Sequence[Span]) -> Encoded:
        """Return `text` as token ids, of which those of `spans` bear loss."""
        # Cut at the spans: what is generated never shares a token with the text before it.
        ids: list[int] = []
        masked: list[Span] = []
        previous_end = 0
        for start, end in spans:
            first_masked = len(ids)
            ids += self._form.encoder.ids(
                text[previous_end:start], continued=previous_end > 0
            )
            masked.append((first_masked, len(ids)))
            ids += self._form.encoder.ids(text[start:end], continued=True)
            previous_end = end
        (_, num_masked), *gaps = masked
        gaps = [(start, end) for start, end in gaps if start < end]
        return Encoded(ids, num_masked, tuple(gaps))

    def _turns(self, prompt: str | Conversation) -> list[Message]:
        if isinstance(prompt, Conversation):
            return self._with_system(prompt.messages)
        return self._with_system([{"role": "user", "content": prompt}])

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        """Put the recipe's system prompt first, unless the conversation has its own."""
        if not self.system_prompt or (messages and messages[0]["role"] == "system"):
            return list(messages)
        return [{"role": "system", "content": self.system_prompt}, *messages]

    def _check_system_prompt(self) -> None:
        """Raise UserError if the template refuses a system prompt or leaves it out."""
        if not self.template:
            raise UserError(
                "model.system_prompt has no effect: the model has no chat template; unset it, or "
                "put it into the prompts"
            )
        # Some templates raise at a system turn, others pass it over without a word.
        probe = {"role": "system", "content": _SYSTEM_PROBE}
        try:
            self._writer.render(self._with_system([QUESTION]), ())
            written = render(self.tokenizer, [probe, QUESTION]).text
        except Refused as error:
            raise UserError(
                f"model.system_prompt: {error}; unset it, or put it into the prompts"
            ) from None
        if _SYSTEM_PROBE not in written:
            raise UserError(
                "model.system_prompt has no effect: the model's chat template leaves it out; unset "
                "it, or put it into the prompts"
            )

    def _beginning_ids(self, text: str) -> list[int]:
        """Return the token ids of the beginning of a text, at least one."""
        if text or self._start:
            return [*self._start, *self._text_ids(text)]
        # Nothing can be predicted from nothing: what stands before a text is <bos>, or the end of
        # another text.
        bos = self.tokenizer.bos_token_id
        return [self.end_ids[0] if bos is None else int(bos)]

    @property
    def _start(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        # A template writes <bos> itself.
        return [] if bos is None or self.template else [int(bos)]

    def _text_ids(self, text: str, *, continued: bool = False) -> list[int]:
        """Return the token ids of a text in which nothing is a control token."""
        return self._form.encoder.ids(
            marked(text, self._form.assistant_control), continued=continued
        )


def load_codec(folder: Path, system_prompt: str = "") -> Codec:
    """Return the codec of a clean checkpoint.

    It has the checkpoint's tokenizer and template, and the end tokens of its generation_config.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    config = AutoConfig.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    num_rows = getattr(config.get_text_config(), "vocab_size", None)
    return Codec(tokenizer, system_prompt, generation_ends(folder), num_rows)


def generation_ends(folder: Path) -> tuple[int, ...]:
    """Return the tokens that end an answer by generation_config.json, or else by config.json."""
    # The order in which transformers looks for it.
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if path.is_file():
            ends = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            listed = ends if isinstance(ends, list) else [ends]
            return tuple(end for end in listed if isinstance(end, int))
    return ()


def windows(ids: list[int], num_masked: int, size: int) -> list[Encoded]:
    """Return text cut into windows of `size` tokens, of which each bears loss."""
    cut = []
    # A window begins with the last token of the one before, so every token is predicted once.
    for start in range(0, max(1, len(ids) - 1), size - 1):
        window = ids[start : start + size]
        masked = max(1, num_masked - start)
        if masked < len(window):
            cut.append(Encoded(window, masked))
    return cut


def _tools(prompt: str | Conversation) -> Sequence[Tool]:
    return prompt.tools if isinstance(prompt, Conversation) else ()


def _as_text(prompt: str | Conversation) -> str:
    return prompt.as_text() if isinstance(prompt, Conversation) else prompt
