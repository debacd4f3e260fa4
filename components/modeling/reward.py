"""Reward models: sequence classifiers with one output that say how good an answer is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from components.errors import UserError
from components.modeling.load import inference_dtype, quiet
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
            raise UserError(
                f"reward model {folder}: cannot be loaded ({str(error).splitlines()[0]})"
            ) from None
        check_report(report, f"reward model {folder}")
        self._model = model.to(device).eval()
        if self._model.config.num_labels != 1:
            raise UserError(
                f"reward model {folder}: {self._model.config.num_labels} outputs; a reward model has one (num_labels)"
            )
        if self._tokenizer.pad_token_id is None:
            raise UserError(
                f"reward model {folder}: its tokenizer has no pad_token, so rows of a batch cannot be told"
            )
        self._model.config.pad_token_id = self._tokenizer.pad_token_id
        self._limit = int(getattr(self._model.config, "max_position_embeddings", 0) or 10**9)

    @torch.inference_mode()
    def scores(self, pairs: Sequence[tuple[str, str]], batch_size: int) -> list[float | None]:
        """The reward of each (prompt, answer), in order; None for one that is longer than the model
        takes."""
        rows = [self._ids(*pair) for pair in pairs]
        places = sorted(
            (len(row), place) for place, row in enumerate(rows) if len(row) <= self._limit
        )
        found: list[float | None] = [None] * len(rows)
        for start in range(0, len(places), batch_size):
            group = [place for _, place in places[start : start + batch_size]]
            batch = self._tokenizer.pad(
                {"input_ids": [rows[place] for place in group]}, return_tensors="pt"
            )
            rewards = self._model(**batch.to(self._model.device)).logits[:, 0].float().tolist()
            for place, reward in zip(group, rewards, strict=True):
                found[place] = reward
        return found

    def _ids(self, prompt: str, answer: str) -> list[int]:
        """A conversation where the tokenizer has a chat template, else the two texts as a pair."""
        if self._tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            text = self._tokenizer.apply_chat_template(turns, tokenize=False)
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return list(self._tokenizer(prompt, answer)["input_ids"])
