"""Text to token ids and back, one way for training, sampling and evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from components.errors import UserError


@dataclass(frozen=True)
class Codec:
    """A tokenizer with the conversation form of its model.

    With a chat template a prompt is one user turn and the completion the assistant's; without one
    it is <bos> prompt completion <eos>. The end token belongs to the completion: a model learns to
    stop by it.
    """

    tokenizer: PreTrainedTokenizerBase
    system_prompt: str = ""

    def __post_init__(self) -> None:
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                "the model's tokenizer has no eos_token: answers could never end; set one in tokenizer_config.json"
            )

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return (int(self.tokenizer.eos_token_id),)

    @property
    def pad_id(self) -> int:
        """A filler for positions that are masked everywhere: never the end token, whose loss must
        count."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None and pad not in self.end_ids else int(0 in self.end_ids)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Everything the model sees before its answer."""
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}]
            if self.system_prompt:
                turns.insert(0, {"role": "system", "content": self.system_prompt})
            text = self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=False
            )
            return self._ids(text)
        return self._start() + self._ids(prompt)

    def completion_ids(self, completion: str) -> list[int]:
        """The answer with its end token."""
        return [*self._ids(completion), *self.end_ids]

    def row_ids(self, prompt: str, completion: str) -> tuple[list[int], int]:
        """Token ids of a training row and the length of the part that bears no loss. Raw text has
        an empty prompt."""
        head = self.prompt_ids(prompt) if prompt else self._start()
        return head + self.completion_ids(completion), max(len(head), 1 if not head else 0)

    def text(self, ids: list[int]) -> str:
        """The answer as text, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _start(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [] if bos is None or self.tokenizer.chat_template else [int(bos)]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
