"""Reward models: sequence classifiers with one output that say how good an answer is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from components.errors import UserError, first_line
from components.modeling.batches import length_sorted_batches
from components.modeling.chat_template import one_of, render
from components.modeling.load import inference_dtype, quiet
from components.modeling.text_encoder import TextEncoder
from components.modeling.weights import check_report


class RewardModel:
    """A checkpoint with safetensors weights and its tokenizer, of stock classes alone."""

    def __init__(self, folder: Path) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            with quiet():
                self._tokenizer = AutoTokenizer.from_pretrained(
                    folder, trust_remote_code=False, local_files_only=True
                )
                model, report = AutoModelForSequenceClassification.from_pretrained(
                    folder,
                    dtype=inference_dtype(folder),
                    output_loading_info=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    local_files_only=True,
                )
        except (OSError, ValueError, KeyError) as error:
            reason = first_line(error)
            raise UserError(
                f"reward model {folder}: cannot be loaded ({reason})"
            ) from None
        # transformers gives a checkpoint without a classifier one of random numbers.
        check_report(report, f"reward model {folder}")
        added = self._tokenizer.added_tokens_decoder.values()
        self._control = one_of(
            token.content for token in added if not token.content.isspace()
        )
        self._encoder = TextEncoder(self._tokenizer)
        self._model = model.to(device).eval()
        num_outputs = self._model.config.num_labels
        if num_outputs != 1:
            raise UserError(
                f"reward model {folder}: {num_outputs} outputs; a reward model has one (num_labels)"
            )
        # A classifier reads its score at the last token that is no padding.
        if self._tokenizer.pad_token_id is None:
            raise UserError(
                f"reward model {folder}: its tokenizer has no pad_token, so rows of a batch cannot "
                "be told"
            )
        self._model.config.pad_token_id = self._tokenizer.pad_token_id
        self._max_length = getattr(self._model.config, "max_position_embeddings", None)

    @torch.inference_mode()
    def scores(
        self, pairs: Sequence[tuple[str, str]], batch_size: int
    ) -> list[float | None]:
        """Return the reward of each (prompt, answer), in order.

        None for one that is longer than the model takes. Computed in length-sorted batches of
        `batch_size`.
        """
        rows = [self._ids(prompt, answer) for prompt, answer in pairs]
        max_length = self._max_length or max((len(row) for row in rows), default=0)
        fitting = [index for index, row in enumerate(rows) if len(row) <= max_length]
        lengths = [len(rows[index]) for index in fitting]
        scores: list[float | None] = [None] * len(rows)
        for positions in length_sorted_batches(lengths, batch_size):
            indices = [fitting[position] for position in positions]
            padded = self._tokenizer.pad(
                {"input_ids": [rows[index] for index in indices]}, return_tensors="pt"
            )
            logits = self._model(**padded.to(self._model.device)).logits
            rewards = logits[:, 0].float().tolist()
            for index, reward in zip(indices, rewards, strict=True):
                scores[index] = reward
        return scores

    def _ids(self, prompt: str, answer: str) -> list[int]:
        """Return a conversation where the tokenizer has a chat template, else a pair of texts.

        No text of the two becomes a special token: an answer must not end its turn and go on as
        the user who praises it.
        """
        if not self._tokenizer.chat_template:
            pair = self._tokenizer(prompt, answer, split_special_tokens=True)
            return list(pair["input_ids"])
        turns = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
        ]
        # The template writes the special tokens that the tokenizer would add.
        rendered = render(
            self._tokenizer,
            turns,
            control=self._control,
            assistant_control=self._control,
        )
        return self._encoder.ids(rendered.text)
