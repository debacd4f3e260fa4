"""How a round's prompts are divided, and what a shard that was killed had already sampled.

The round is divided into batches before the batches are divided among the shards. So a sample has
the same neighbours whatever the number of shards, and comes out the same to the bit even where
rounding depends on them.

    progress/generate/<step key>/peer-0-batch-00003.json    one batch: what was asked and what was answered
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from components.canonical import canonical_json, digest_of
from components.contracts.rows import Prompt, Sample
from components.errors import Corrupt, Missing, Transient
from components.runtime.context import Context
from components.storage import keys

EVEN = 4
"""The number of batches is a multiple of it, so that few shards get equally many."""
MAX_BATCH_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Ask:
    """One sample that is wanted."""

    prompt: Prompt
    index: int
    """Which of the prompt's samples."""
    seed: int


def batches_of(
    prompts: Sequence[Prompt], *, samples_per_prompt: int, batch_size: int, shards: int
) -> list[list[Prompt]]:
    """Divide prompts into batches of nearly equal size and similar lengths, at least one per shard.

    All samples of a prompt are in one batch, of about `batch_size` samples at most, or of one
    prompt alone.
    """
    ordered = sorted(prompts, key=lambda prompt: (len(prompt.text), prompt.id))
    count = -(-len(ordered) * samples_per_prompt // batch_size)
    count = min(len(ordered), -(-count // EVEN) * EVEN)
    while count < min(shards, len(ordered)):
        count = min(2 * count, len(ordered))
    edges = [len(ordered) * number // count for number in range(count + 1)]
    return [ordered[begin:end] for begin, end in itertools.pairwise(edges)]


class SavedBatch(BaseModel):
    """A progress receipt: one batch that is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = 1
    asked: str
    """Digest of prompts, indices and seeds."""
    answered: str
    """Digest of `samples`."""
    samples: list[Sample]


class SavedBatches:
    """The batches that a shard has sampled so far, in the store."""

    def __init__(self, context: Context, key: str) -> None:
        """`key` is the shard's step key."""
        self._context, self._key = context, key

    def load(self, name: str, asks: Sequence[Ask]) -> list[Sample] | None:
        """The samples of a batch; None if there are none, or (said in a note) none that can be
        trusted."""
        address = keys.progress_key("generate", self._key, f"{name}.json")
        try:
            saved = SavedBatch.model_validate_json(
                self._context.store.get_bytes(address, MAX_BATCH_BYTES)
            )
        except Missing:
            return None
        except (ValidationError, Corrupt) as error:
            self._refuse(name, str(error).splitlines()[0])
            return None
        if saved.asked != _digest_of_asks(asks) or saved.answered != _digest_of_samples(
            saved.samples
        ):
            self._refuse(name, "it is damaged or answers other prompts")
            return None
        return saved.samples

    def save(self, name: str, asks: Sequence[Ask], samples: Sequence[Sample]) -> None:
        """Keep the samples of a batch. A store that fails for now costs the progress, not the work:
        said in a note."""
        saved = SavedBatch(
            asked=_digest_of_asks(asks), answered=_digest_of_samples(samples), samples=list(samples)
        )
        address = keys.progress_key("generate", self._key, f"{name}.json")
        try:
            self._context.store.put_bytes(address, canonical_json(saved.model_dump(mode="json")))
        except Transient as error:
            self._context.progress.note(f"{name} was not saved: {error}")

    def remove(self) -> None:
        """Delete what a finished shard no longer needs."""
        for address in list(self._context.store.list(keys.progress_prefix("generate", self._key))):
            self._context.store.delete(address)

    def _refuse(self, name: str, why: str) -> None:
        self._context.progress.note(f"saved {name} is not used: {why}; it is sampled again")


def _digest_of_asks(asks: Sequence[Ask]) -> str:
    return digest_of([[ask.prompt.id, ask.index, ask.seed] for ask in asks])


def _digest_of_samples(samples: Sequence[Sample]) -> str:
    return digest_of([sample.model_dump(mode="json") for sample in samples])
