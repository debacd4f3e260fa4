"""Text to token ids and back, one way for training, sampling and evaluation."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from components.contracts.rows import Conversation, TrainingRow
from components.errors import UserError
from components.modeling.chat_template import (
    MARKS,
    PROBE,
    Message,
    Refused,
    Rendered,
    marked,
    one_of,
    render,
    template_source,
)

Turns = Literal["all", "last"]
"""Which of the assistant's turns bear loss."""
_QUESTION = {"role": "user", "content": f"{PROBE}?"}
_SYSTEM_PROBE = f"{PROBE}!"
_OPENED = re.compile(r"<(\w+)>\s*\Z")
"""A generation prompt that ends in the tag of a thought."""
_SPELLED = re.compile(f"{MARKS[0]}([^{MARKS[0]}{MARKS[1]}]*){MARKS[1]}")
_MARK = re.compile("|".join(MARKS))


@dataclass(frozen=True)
class Encoded:
    """Token ids of which some bear loss."""

    ids: list[int]
    num_masked: int
    """So many at the front bear none."""
    gaps: tuple[tuple[int, int], ...] = ()
    """Stretches behind them, [start, end), that bear none either: what others said in between."""


@dataclass(frozen=True)
class Codec:
    """A tokenizer with the conversation form of its model.

    With a chat template a conversation is what the template makes of it; a prompt that is text alone
    is one user turn. Without one it is <bos> prompt completion <eos>. The token that ends a turn
    belongs to the completion: a model learns to stop by it. Whatever a prompt or a completion
    spells, only the template and this class write control tokens. Raises UserError for a template
    that cannot be used, or that leaves out the system prompt.
    """

    tokenizer: PreTrainedTokenizerBase
    system_prompt: str = ""
    generation_ends: tuple[int, ...] = ()
    """What generation_config.json says ends an answer."""
    num_embeddings: int | None = None
    """Rows of the model's embedding; None: one for every token."""

    def __post_init__(self) -> None:
        if not self.end_ids:
            raise UserError(
                "the model's tokenizer has no eos_token: answers could never end; set one in tokenizer_config.json"
            )
        if self.system_prompt:
            self._check_system_prompt()

    @functools.cached_property
    def template(self) -> str:
        """The chat template that conversations are rendered by; empty if there is none."""
        return template_source(self.tokenizer)

    @functools.cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: the one that the template writes, which is what training
        teaches, the tokenizer's, and those of generation_config.json."""
        ends = [self._template_end, self.tokenizer.eos_token_id, *self.generation_ends]
        return tuple(dict.fromkeys(int(end) for end in ends if end is not None))

    @property
    def pad_id(self) -> int:
        """A filler for positions that are masked everywhere: never the end token, whose loss must
        count."""
        pad = self.tokenizer.pad_token_id
        rows = self.num_embeddings
        if pad is not None and pad not in self.end_ids and (rows is None or pad < rows):
            return int(pad)
        return next(place for place in range(len(self.end_ids) + 1) if place not in self.end_ids)

    def prompt_ids(self, asked: str | Conversation) -> list[int]:
        """Everything the model sees before its answer."""
        if not self.template:
            return self._start + self._text_ids(_as_text(asked))
        return self._ids(self._opened(self._turns(asked), _tools(asked)))

    def completion_ids(self, completion: str) -> list[int]:
        """An answer as the model itself would write it, with the token that ends it."""
        return [*self._text_ids(completion, behind=True), self.end_ids[0]]

    def row_ids(self, asked: str | Conversation, completion: str) -> tuple[list[int], int]:
        """Token ids of a question with its answer, and the length of the part that bears no loss.
        Raw text has an empty prompt."""
        if not asked:
            # The first token of a text is predicted from nothing where there is no <bos>.
            return [*self._start, *self._text_ids(completion), self.end_ids[0]], 1
        if not self.template:
            return self.sampled_ids(asked, completion)
        reply = {"role": "assistant", "content": completion}
        opened, answer = self._answered(self._turns(asked), reply, _tools(asked))
        head = self._ids(opened)
        return head + self._ids(answer, behind=True), len(head)

    def sampled_ids(self, asked: str | Conversation, completion: str) -> tuple[list[int], int]:
        """The same for an answer that the model wrote, token for token as text allows: the template
        does not touch it."""
        head = self.prompt_ids(asked)
        return head + self.completion_ids(completion), len(head)

    def encode(self, row: TrainingRow, turns: Turns = "all") -> list[Encoded]:
        """A training row as token ids. A conversation whose template writes earlier turns otherwise
        than they are generated (Qwen3 leaves out thoughts) comes as a row for each turn of the
        assistant; all others are one."""
        conversation = row.conversation if self.template else None
        asked = row.prompt if conversation is None else conversation.before_answer
        if row.source == "self" and row.prompt:
            return [Encoded(*self.sampled_ids(asked, row.completion))]
        if conversation is None:
            return [Encoded(*self.row_ids(asked, row.completion))]
        return self._conversation(conversation, turns)

    def text(self, ids: list[int]) -> str:
        """What the model wrote, without special tokens and otherwise untouched."""
        decode = self.tokenizer.decode
        before = decode(self._line_end, skip_special_tokens=True)
        text = str(decode([*self._line_end, *ids], skip_special_tokens=True))
        # Behind a line end: some tokenizers drop the first blank of a text.
        if text.startswith(before):
            return text[len(before) :]
        return str(decode(ids, skip_special_tokens=True))

    def _conversation(self, conversation: Conversation, turns: Turns) -> list[Encoded]:
        messages, tools = self._with_system(conversation.messages), conversation.tools
        first = next(place for place, one in enumerate(messages) if one["role"] == "user")
        places = [
            place
            for place, one in enumerate(messages)
            if one["role"] == "assistant" and place > first
        ]
        if turns == "last":
            places = places[-1:]
        parts = [self._answered(messages[:place], messages[place], tools) for place in places]
        whole = "".join(parts[-1])
        if not all(whole.startswith(opened + answer) for opened, answer in parts):
            return [
                self._spans(opened + answer, [_behind(opened, answer)]) for opened, answer in parts
            ]
        spans = [_behind(opened, answer) for opened, answer in parts]
        rendered = self._render(messages, tools)
        if rendered.generated and rendered.text.startswith(whole):
            spans = self._narrowed(spans, rendered.generated, whole)
        return [self._spans(whole, spans)]

    def _narrowed(
        self,
        spans: Sequence[tuple[int, int]],
        generated: Sequence[tuple[int, int]],
        text: str,
    ) -> list[tuple[int, int]]:
        """What the template itself says is generated inside the assistant's turns, and the token
        that ends the turn, which not every template counts in."""
        narrowed = []
        for start, end in spans:
            inside = [
                (max(start, first), min(end, last))
                for first, last in generated
                if first < end and last > start
            ]
            closing = next((one for one in self._end_tokens if text[:end].endswith(one)), "")
            if inside and not text[inside[-1][1] : end].removesuffix(closing).strip():
                inside[-1] = (inside[-1][0], end)
            narrowed += inside
        return narrowed or list(spans)

    def _spans(self, text: str, spans: Sequence[tuple[int, int]]) -> Encoded:
        """`text` as token ids, of which those of `spans` bear loss. Cut there: what is generated
        never shares a token with what was there before."""
        ids: list[int] = []
        masked: list[tuple[int, int]] = []
        done = 0
        for start, end in spans:
            before = self._ids(text[done:start], behind=done > 0)
            masked.append((len(ids), len(ids) + len(before)))
            ids += before + self._ids(text[start:end], behind=True)
            done = end
        return Encoded(ids, masked[0][1], tuple(gap for gap in masked[1:] if gap[0] < gap[1]))

    def _answered(
        self, before: Sequence[Message], reply: Message, tools: Sequence[Any]
    ) -> tuple[str, str]:
        """What the model sees before a turn, and that turn as the template writes it, up to the
        token that ends it. Raises UserError for a template that writes it otherwise."""
        opened = self._opened(before, tools)
        whole = self._render([*before, reply], tools).text
        if whole.startswith(opened):
            return opened, self._ended(whole[len(opened) :])
        thought = _OPENED.search(opened)
        if thought is None or not whole.startswith(opened[: thought.start()]):
            raise UserError(
                "the model's chat template writes an answer otherwise than it has it generated, so nothing can be "
                "trained that would be sampled: mend the template (add_generation_prompt)"
            )
        written = self._ended(whole[thought.start() :])
        return opened, self._thought(thought[1], reply, written)

    def _thought(self, tag: str, reply: Message, written: str) -> str:
        """An answer whose generation prompt has opened a thought that the template does not write
        again: the thought comes first, an empty one if there is none."""
        closing, content = f"</{tag}>", str(reply.get("content") or "")
        if closing in content:
            thought = content.strip().removeprefix(f"<{tag}>").removeprefix("\n")
            end = next((one for one in self._end_tokens if written.endswith(one)), "")
            return marked(thought, self._assistant_control) + end
        reasoning = str(reply.get("reasoning_content") or reply.get("thinking") or "").strip()
        return f"{marked(reasoning, self._assistant_control)}\n{closing}\n\n{written}"

    def _ended(self, text: str) -> str:
        """A turn up to the first token that ends it; with one, if the template writes none."""
        ends = "|".join(re.escape(token) for token in self._end_tokens)
        for found in re.finditer(f"{_SPELLED.pattern}|({ends})", text):
            if found[2]:
                return text[: found.end()]
        return text.rstrip("\n") + self._end_tokens[0]

    @functools.cached_property
    def _end_tokens(self) -> tuple[str, ...]:
        tokens = self.tokenizer.convert_ids_to_tokens(list(self.end_ids))
        return tuple(str(token) for token in tokens if token)

    def _opened(self, messages: Sequence[Message], tools: Sequence[Any]) -> str:
        """The conversation with the assistant's turn begun."""
        opened = self._render(messages, tools, open_answer=True)
        return opened.text + self._header

    @functools.cached_property
    def _header(self) -> str:
        """How the assistant's turn begins where the template takes no notice of
        `add_generation_prompt`; empty where it does."""
        question = [_QUESTION]
        opened = render(self.tokenizer, question, open_answer=True).text
        before, _ = self._around_answer
        if opened != render(self.tokenizer, question).text or not before.startswith(opened):
            return ""
        header = before[len(opened) :]
        # A blank alone belongs to the answer, as it does where answers are sampled.
        return header if header.strip() else ""

    @functools.cached_property
    def _around_answer(self) -> tuple[str, str]:
        """What the template writes before an answer and after it."""
        text = render(self.tokenizer, [_QUESTION, {"role": "assistant", "content": PROBE}]).text
        before, found, after = text.rpartition(PROBE)
        if not found or PROBE not in before:
            raise UserError(
                "the model's chat template does not write what user and assistant say, so nothing can be trained by it"
            )
        return before, after

    @functools.cached_property
    def _template_end(self) -> int | None:
        """The token that the template ends the assistant's turn with; None if it writes none."""
        if not self.template:
            return None
        _, after = self._around_answer
        for place in self._plain(after.lstrip()):
            # What is no added token is text: then the turn does not end in a control token.
            return int(place) if place in self.tokenizer.added_tokens_decoder else None
        return None

    @functools.cached_property
    def _assistant_control(self) -> re.Pattern[str]:
        """Tokens that nothing said may become: special ones, ends, and those around a turn. A model
        that says <think> or <tool_call> means the token."""
        added = self.tokenizer.added_tokens_decoder
        special = {token.content for token in added.values() if token.special}
        around = set[str]()
        if self.template:
            question = render(self.tokenizer, [_QUESTION]).text
            around = {added[place].content for place in self._plain(question) if place in added}
        return one_of(
            token for token in special | around | set(self._end_tokens) if not token.isspace()
        )

    @functools.cached_property
    def _control(self) -> re.Pattern[str]:
        """The same for others than the assistant: none may become a token that the template
        writes."""
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        written = {token for token in added if token in self.template and not token.isspace()}
        known = {token for token in added if self._assistant_control.fullmatch(token)}
        return one_of(known | written | set(self._end_tokens))

    def _render(
        self, messages: Sequence[Message], tools: Sequence[Any], *, open_answer: bool = False
    ) -> Rendered:
        return render(
            self.tokenizer,
            messages,
            tools,
            control=self._control,
            assistant_control=self._assistant_control,
            open_answer=open_answer,
        )

    def _turns(self, asked: str | Conversation) -> list[Message]:
        if isinstance(asked, Conversation):
            return self._with_system(asked.messages)
        return self._with_system([{"role": "user", "content": asked}])

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        """With the recipe's system prompt, unless the conversation has its own."""
        if not self.system_prompt or (messages and messages[0]["role"] == "system"):
            return list(messages)
        return [{"role": "system", "content": self.system_prompt}, *messages]

    def _check_system_prompt(self) -> None:
        if not self.template:
            raise UserError(
                "model.system_prompt has no effect: the model has no chat template; unset it, or put it into the "
                "prompts"
            )
        probe = {"role": "system", "content": _SYSTEM_PROBE}
        try:
            self._render(self._with_system([_QUESTION]), ())
            written = render(self.tokenizer, [probe, _QUESTION]).text
        except Refused as error:
            raise UserError(
                f"model.system_prompt: {error}; unset it, or put it into the prompts"
            ) from None
        if _SYSTEM_PROBE not in written:
            raise UserError(
                "model.system_prompt has no effect: the model's chat template leaves it out; unset it, or put it into "
                "the prompts"
            )

    @property
    def _start(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [] if bos is None or self.template else [int(bos)]

    def _ids(self, text: str, *, behind: bool = False) -> list[int]:
        """Token ids of rendered text; `behind`: other text stands before it.

        Marked tokens are spelled out. A mark that the template tore from its token is dropped, and
        what is before and behind it comes to no token together.
        """
        ids: list[int] = []
        for place, piece in enumerate(_SPELLED.split(text)):
            if place % 2:
                ids += self._spelled(piece)
                continue
            for part in _MARK.split(piece):
                ids += self._part(part, behind=behind or bool(ids))
        return ids

    def _text_ids(self, text: str, *, behind: bool = False) -> list[int]:
        """Token ids of a text in which nothing is a control token."""
        return self._ids(marked(text, self._assistant_control), behind=behind)

    def _part(self, text: str, *, behind: bool) -> list[int]:
        if not text:
            return []
        return self._behind(text) if behind else self._plain(text)

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @functools.cached_property
    def _line_end(self) -> list[int]:
        return self._plain("\n")

    def _behind(self, text: str) -> list[int]:
        """Token ids of text that goes on: behind a line end, for some tokenizers put a blank before
        a text that begins."""
        ids = self._plain(f"\n{text}")
        size = len(self._line_end)
        return ids[size:] if ids[:size] == self._line_end else self._plain(text)

    def _spelled(self, token: str) -> list[int]:
        """Token ids of a text that spells a control token, without that token."""
        own = self.tokenizer.convert_tokens_to_ids(token)
        ids = list(
            self.tokenizer(token, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        )
        if own not in ids:
            return ids
        middle = len(token) // 2
        return self._behind(token[:middle]) + self._behind(token[middle:])


def load_codec(folder: Path, system_prompt: str = "") -> Codec:
    """The codec of a clean checkpoint: its tokenizer and template, and what its generation_config
    says of the end."""
    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    rows = getattr(config.get_text_config(), "vocab_size", None)
    return Codec(tokenizer, system_prompt, generation_ends(folder), rows)


def generation_ends(folder: Path) -> tuple[int, ...]:
    """Tokens that end an answer by generation_config.json, or by config.json where there is none."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if path.is_file():
            ends = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            listed = ends if isinstance(ends, list) else [ends]
            return tuple(end for end in listed if isinstance(end, int))
    return ()


def _behind(opened: str, answer: str) -> tuple[int, int]:
    """Where the answer is in the text of both."""
    return len(opened), len(opened) + len(answer)


def _tools(asked: str | Conversation) -> Sequence[Any]:
    return asked.tools if isinstance(asked, Conversation) else ()


def _as_text(asked: str | Conversation) -> str:
    return asked.as_text() if isinstance(asked, Conversation) else asked
