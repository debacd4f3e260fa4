"""Weights between the base model and the tuned one (WiSE-FT, 2109.01903)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Interpolation:
    """The choice and what it rests on."""

    share: float
    """Share of the tuned model; 1: no change."""
    losses: dict[float, float]
    """Share → dev loss."""
    weights: dict[str, Tensor]
    """float32."""


def interpolate(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """(1 − share)·base + share·tuned in float32, tensor by tensor. Raises ValueError where names or
    shapes differ."""
    shapes = [{name: tuple(tensor.shape) for name, tensor in one.items()} for one in (base, tuned)]
    if shapes[0] != shapes[1]:
        odd = sorted(
            name
            for name in {**shapes[0], **shapes[1]}
            if shapes[0].get(name) != shapes[1].get(name)
        )
        raise ValueError(f"base and tuned weights differ in name or shape: {', '.join(odd[:3])}")
    return {name: (1 - share) * base[name].float() + share * tuned[name].float() for name in tuned}


def choose_share(
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    loss_of: Callable[[Mapping[str, Tensor]], float],
    shares: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
) -> Interpolation:
    """Of `shares` the one with the lowest `loss_of` its weights, in nats per token of the dev rows;
    of equal ones the largest, which changes least. A loss that is not finite is never chosen unless
    all are, which leaves the largest."""
    losses = {
        share: loss_of(interpolate(base, tuned, share)) for share in sorted(shares, reverse=True)
    }
    finite = {share: loss for share, loss in losses.items() if math.isfinite(loss)}
    share = min(finite, key=finite.__getitem__, default=max(shares))
    return Interpolation(share, losses, interpolate(base, tuned, share))
