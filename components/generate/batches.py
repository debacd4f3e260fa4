"""Batches of a round's prompts, and the batches that an interrupted shard had already sampled.

The round is divided into batches before the batches are divided among the shards. So a sample has
the same neighbours whatever the number of shards, and comes out the same to the bit even where
rounding depends on them. A finished batch, with its prompts and its samples, is stored as

    progress/generate/<step key>/peer-0-batch-00003.json
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from components.canonical import canonical_json, digest_of
from components.contracts.rows import Prompt, Sample
from components.errors import Corrupt, Missing, Transient, one_line
from components.runtime.context import Context
from components.storage import keys

EVEN = 4
"""The number of batches is a multiple of this, so that 2 or 4 shards get equally many."""
MAX_BATCH_BYTES = 256 * 2**20
"""A larger object is no batch of ours: it is not read into memory."""


@dataclass(frozen=True)
class Ask:
    """A request for one sample."""

    prompt: Prompt
    index: int
    """Number of the sample among those of its prompt."""
    seed: int


def batches_of(
    prompts: Sequence[Prompt], *, samples_per_prompt: int, batch_size: int, shards: int
) -> list[list[Prompt]]:
    """Return batches of nearly equal size, each of prompts with similar lengths.

    All samples of a prompt are in one batch. There are as many batches as shards at least, unless
    there are fewer prompts.

    Args:
        prompts: Prompts of the round.
        samples_per_prompt: Samples of each prompt.
        batch_size: Samples in a batch, about; a batch holds at least one prompt.
        shards: Number of shards.
    """
    if not prompts:
        return []
    # Neighbours of similar length waste the fewest positions on padding.
    ordered = sorted(prompts, key=lambda prompt: (len(prompt.text), prompt.id))
    num_batches = math.ceil(len(ordered) * samples_per_prompt / batch_size)
    num_batches = min(len(ordered), math.ceil(num_batches / EVEN) * EVEN)
    while num_batches < min(shards, len(ordered)):
        num_batches = min(2 * num_batches, len(ordered))
    # Whole-number edges: batches differ by one prompt at most.
    edges = [len(ordered) * number // num_batches for number in range(num_batches + 1)]
    return [ordered[begin:end] for begin, end in itertools.pairwise(edges)]


class SavedBatch(BaseModel):
    """A progress receipt: one finished batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = 1
    asks_digest: str
    """Digest of prompts, indices and seeds."""
    samples_digest: str
    """Digest of `samples`."""
    samples: list[Sample]


class SavedBatches:
    """The batches that a shard has sampled so far, in the store."""

    def __init__(self, context: Context, key: str) -> None:
        """`key` is the shard's step key."""
        self._context = context
        self._key = key

    def load(self, name: str, asks: Sequence[Ask]) -> list[Sample] | None:
        """Return the saved samples of a batch; None if there are none, or none that can be trusted.

        A note says so in the latter case.

        Args:
            name: Name of the batch.
            asks: The requests that the samples should answer.
        """
        try:
            stored = self._context.store.get_bytes(self._address(name), MAX_BATCH_BYTES)
            saved = SavedBatch.model_validate_json(stored)
        except Missing:
            return None
        except (ValidationError, Corrupt) as error:
            self._refuse(name, one_line(error))
            return None
        # Both digests: a store may hand out another object, or one that was cut off and is still
        # readable.
        is_answer = saved.asks_digest == _digest_of_asks(asks)
        is_whole = saved.samples_digest == _digest_of_samples(saved.samples)
        if not is_answer or not is_whole:
            self._refuse(name, "it is damaged or answers other prompts")
            return None
        return saved.samples

    def save(self, name: str, asks: Sequence[Ask], samples: Sequence[Sample]) -> None:
        """Save the samples of a batch. If the store fails for now, the batch is not saved: a note.

        Args:
            name: Name of the batch.
            asks: The requests.
            samples: The answers to them.
        """
        saved = SavedBatch(
            asks_digest=_digest_of_asks(asks),
            samples_digest=_digest_of_samples(samples),
            samples=list(samples),
        )
        try:
            self._context.store.put_bytes(
                self._address(name), canonical_json(saved.model_dump(mode="json"))
            )
        except Transient as error:
            # The samples are still in memory: the shard goes on, and loses progress only if it is
            # interrupted as well.
            self._context.progress.note(f"{name} was not saved: {error}")

    def remove(self) -> None:
        """Delete all batches of a finished shard."""
        # A list: the store does not change while it is being listed.
        for address in list(
            self._context.store.list(keys.progress_prefix("generate", self._key))
        ):
            self._context.store.delete(address)

    def _address(self, name: str) -> str:
        return keys.progress_key("generate", self._key, f"{name}.json")

    def _refuse(self, name: str, reason: str) -> None:
        self._context.progress.note(
            f"saved {name} is not used: {reason}; it is sampled again"
        )


def _digest_of_asks(asks: Sequence[Ask]) -> str:
    return digest_of([[ask.prompt.id, ask.index, ask.seed] for ask in asks])


def _digest_of_samples(samples: Sequence[Sample]) -> str:
    return digest_of([sample.model_dump(mode="json") for sample in samples])
