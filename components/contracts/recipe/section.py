"""Base class of the recipe's sections, and types of their fields."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

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

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth(cls, given: object, info: ValidationInfo) -> object:
        """Refuse true and false in the place of a number: YAML reads `on` and `yes` so, as 1."""
        entries = given if isinstance(given, list) else [given]
        if any(isinstance(entry, bool) for entry in entries):
            kinds = _kinds_of(cls.model_fields[info.field_name or ""].annotation)
            if kinds & {int, float} and bool not in kinds:
                raise ValueError("expected a number, and this is true or false")
        return given


def _kinds_of(annotation: object) -> set[object]:
    """Return the plain types that an annotation is made of."""
    inner = get_args(annotation)
    if not inner:
        return {annotation}
    return set[object]().union(*(_kinds_of(part) for part in inner))
