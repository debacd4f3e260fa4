"""Base class of the recipe's sections, and types of their fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


def _ordered(band: tuple[float, float]) -> tuple[float, float]:
    low, high = band
    if low > high:
        raise ValueError(f"the lower end comes first: [{high:g}, {low:g}]")
    return band


Band = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""[lowest, highest] of a number."""
# Names become parts of object keys and of Kubernetes names, which allow no more than this.
NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Section(BaseModel):
    """Base of every section: immutable, no unknown keys.

    The docstrings of fields become the descriptions of the recipe's JSON schema.
    """

    # A mistyped key that was ignored would show after days of training, if at all. Infinity and NaN
    # are no JSON, which recipes are stored as.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        # `generate.from` is a word of Python's, so its field has another name there.
        serialize_by_alias=True,
    )
