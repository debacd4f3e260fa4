"""A key-value cache with room for the tokens to come."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

ROOM_TOKENS = 64
"""Tokens that fit, at most, before everything is copied."""


def make_room(cache: Cache, rows: Tensor | None, num_tokens: int, *, masked: bool) -> None:
    """Let `cache` hold row `rows[i]` of its rows as row i (None: as they are), with room for
    `num_tokens` to come.

    `masked` says that the model's attention is always given a mask: then it is shown the empty room
    as well, for products of tensors that lie in one piece are twice as fast. Layers of other kinds
    (sliding windows, recurrent states) are repeated and go on as they were made.
    """
    for place, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[place] = RoomyLayer(layer, rows, num_tokens, masked=masked)
        elif rows is not None:
            layer.batch_select_indices(rows)


class RoomyLayer(DynamicLayer):
    """Keys and values (batch, heads, length, size) at the front of larger tensors: a new token is
    written behind them.

    A plain dynamic layer copies all it holds for every token.
    """

    def __init__(
        self, layer: DynamicLayer, rows: Tensor | None, num_tokens: int, *, masked: bool
    ) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self._masked = masked
        self._length = layer.get_seq_length()
        self._most = self._length + num_tokens
        self._take(layer.keys, layer.values, rows)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add the tokens and return all, where there is a mask with the empty room behind them."""
        end = self._length + key_states.shape[-2]
        if end > self.keys.shape[-2]:
            self._take(self.keys[:, :, : self._length], self.values[:, :, : self._length], None)
        self.keys[:, :, self._length : end] = key_states
        self.values[:, :, self._length : end] = value_states
        self._length = end
        shown = self.keys.shape[-2] if self._masked else end
        return self.keys[:, :, :shown], self.values[:, :, :shown]

    def get_seq_length(self) -> int:
        """Tokens seen, padding included."""
        return int(self._length)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of the keys that `update` will return, and where they begin."""
        end = self._length + query_length
        if not self._masked:
            return end, 0
        room = int(self.keys.shape[-2])
        return room if end <= room else self._with_room(), 0

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self._take(self.keys[:, :, : self._length], self.values[:, :, : self._length], indices)

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: nothing here takes tokens back."""
        raise NotImplementedError("a roomy cache cannot be cropped")

    def _take(self, keys: Tensor, values: Tensor, rows: Tensor | None) -> None:
        self.keys, self.values = (
            _copied(states, rows, self._with_room()) for states in (keys, values)
        )

    def _with_room(self) -> int:
        """Length of the tensors that are made next: no longer than what is known to come."""
        return int(max(self._length + 1, min(self._length + ROOM_TOKENS, self._most)))


def _copied(states: Tensor, rows: Tensor | None, room: int) -> Tensor:
    taken = states if rows is None else states[rows]
    batch, heads, length, size = taken.shape
    copy = states.new_empty((batch, heads, room, size))
    copy[:, :, :length] = taken
    copy[:, :, length:] = 0  # what a mask hides must still be numbers
    return copy
