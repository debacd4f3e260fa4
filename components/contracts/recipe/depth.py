"""Depths that a base of so many decoder layers cannot have."""

from __future__ import annotations

from components.contracts.recipe.train import LayersSection


def depth_refusal(layers: LayersSection, depth: int) -> str:
    """Return why a base cannot have these layers more or fewer; empty if it can.

    Args:
        layers: Layers to insert or to take out, and bounds of reflection.
        depth: Decoder layers of the base.
    """
    for name, extra in (("extra", layers.extra), ("max_extra", layers.max_extra)):
        if extra > depth:
            return (
                f"train.layers.{name} {extra}: the base has {depth} decoder layers, and each is "
                f"copied once at most: set it to {depth} or less"
            )
    for name, extra in (("extra", layers.extra), ("min_extra", layers.min_extra)):
        if depth + extra < 1:
            return (
                f"train.layers.{name} {extra}: the base has {depth} decoder layers, and one has to "
                f"stay: set it to {1 - depth} or more"
            )
    return ""
