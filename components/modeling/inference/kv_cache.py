"""A key-value cache with room for the tokens to come."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

ROOM_TOKENS = 64
"""Tokens that fit, at most, before everything is copied."""


def make_room(
    cache: Cache, rows: Tensor | None, num_tokens: int, *, masked: bool
) -> None:
    """Repeat the rows of a cache and give it room for tokens to come, in place.

    Layers of other kinds than keys and values (sliding windows, recurrent states) are repeated and
    go on as they were made.

    Args:
        cache: what the prefill left.
        rows: for each row of the result the row to take; None: the rows as they are.
        num_tokens: tokens that will be added at most.
        masked: the model's attention is always given a mask, so it may see the empty room as well.
    """
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[index] = RoomyLayer(layer, rows, num_tokens, masked=masked)
        elif rows is not None:
            _select(layer, rows)


def select_rows(cache: Cache, rows: Tensor) -> None:
    """Take these rows of every layer and drop the others, in place."""
    for layer in cache.layers:
        _select(layer, rows)


def _select(layer: Any, rows: Tensor) -> None:
    # Layers of a model that is spread over GPUs keep their states where they are computed.
    device = getattr(layer, "device", None)
    layer.batch_select_indices(rows if device is None else rows.to(device))


class RoomyLayer(DynamicLayer):
    """Keys and values (batch, heads, length, size) at the front of larger tensors.

    A new token is written behind them. A plain dynamic layer copies all it holds for every token.
    """

    def __init__(
        self, layer: DynamicLayer, rows: Tensor | None, num_tokens: int, *, masked: bool
    ) -> None:
        super().__init__()
        self.device = layer.device
        self.is_initialized = True
        self._masked = masked
        self._length = layer.get_seq_length()
        self._final_length = self._length + num_tokens
        self._copy_from(layer.keys, layer.values, rows)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add tokens and return all keys and values; where there is a mask, with the empty room."""
        end = self._length + key_states.shape[-2]
        if end > self.keys.shape[-2]:
            self._copy_from(*self._filled(), None)
        self.keys[:, :, self._length : end] = key_states
        self.values[:, :, self._length : end] = value_states
        self._length = end
        # Products of tensors that lie in one piece are twice as fast, so a mask hides the room
        # where there is one.
        length = self.keys.shape[-2] if self._masked else end
        return self.keys[:, :, :length], self.values[:, :, :length]

    def get_seq_length(self) -> int:
        """Return the tokens seen, padding included."""
        return int(self._length)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (length, start) of the keys that `update` will return."""
        end = self._length + query_length
        if not self._masked:
            return end, 0
        room = int(self.keys.shape[-2])
        if end > room:
            room = self._next_room()
        return room, 0

    def batch_select_indices(self, indices: Tensor) -> None:
        """Take these rows and drop the others."""
        self._copy_from(*self._filled(), indices)

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: nothing here takes tokens back."""
        raise NotImplementedError("a roomy cache cannot be cropped")

    def _filled(self) -> tuple[Tensor, Tensor]:
        keys = self.keys[:, :, : self._length]
        values = self.values[:, :, : self._length]
        return keys, values

    def _copy_from(self, keys: Tensor, values: Tensor, rows: Tensor | None) -> None:
        room = self._next_room()
        self.keys = _with_room(keys, rows, room)
        self.values = _with_room(values, rows, room)

    def _next_room(self) -> int:
        """Return the length of the tensors that are made next, in tokens."""
        room = min(self._length + ROOM_TOKENS, self._final_length)
        return int(max(self._length + 1, room))


def _with_room(states: Tensor, rows: Tensor | None, room: int) -> Tensor:
    """Return a copy of the chosen rows, `room` tokens long."""
    chosen = states if rows is None else states[rows.to(states.device)]
    batch, heads, length, size = chosen.shape
    copy = states.new_empty((batch, heads, room, size))
    copy[:, :, :length] = chosen
    # A mask hides the room, but 0 · NaN is NaN: it must hold numbers.
    copy[:, :, length:] = 0
    return copy
