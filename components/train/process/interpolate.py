"""Weights between the base model and the tuned one (WiSE-FT, 2109.01903)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Interpolation:
    """The chosen weights and the losses of the alternatives."""

    share: float
    """Share of the tuned model; 1: no change."""
    losses: dict[float, float]
    """Share → dev loss."""
    weights: dict[str, Tensor]
    """Interpolated weights in float32."""


def interpolate(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Return (1 − share)·base + share·tuned in float32, tensor by tensor.

    Raises ValueError where names or shapes differ.
    """
    # Compared as (name, shape) pairs: a name on one side only differs as well.
    base_shapes = {(name, tuple(tensor.shape)) for name, tensor in base.items()}
    tuned_shapes = {(name, tuple(tensor.shape)) for name, tensor in tuned.items()}
    differing = sorted({name for name, _ in base_shapes ^ tuned_shapes})
    if differing:
        names = ", ".join(differing[:3])
        raise ValueError(f"base and tuned weights differ in name or shape: {names}")
    weights = {}
    for name, tensor in tuned.items():
        # In float32: in 16 bits the sum would lose the small differences that training made.
        base_part = (1 - share) * base[name].float()
        weights[name] = base_part + share * tensor.float()
    return weights


def choose_share(
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    loss_of: Callable[[Mapping[str, Tensor]], float],
    shares: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
) -> Interpolation:
    """Choose the share whose weights have the lowest loss.

    `loss_of` gives nats per token of the dev rows. Of equal losses the largest share wins, since it
    changes the tuned model least; so it does if no loss is finite.
    """
    losses: dict[float, float] = {}
    # The largest first: of equal losses `min` takes the first.
    for share in sorted(shares, reverse=True):
        losses[share] = loss_of(interpolate(base, tuned, share))
    finite = {share: loss for share, loss in losses.items() if math.isfinite(loss)}
    share = min(finite, key=finite.__getitem__, default=max(shares))
    return Interpolation(share, losses, interpolate(base, tuned, share))
