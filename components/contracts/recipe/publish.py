"""The recipe's section `publish`: the name of the published model, and the rule of its release."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.contracts.recipe.section import Name, Section


class PublishSection(Section):
    """The name that the best model is released under."""

    name: Name = "ratchet-model"
    # The prompts of releases wear out with every comparison that releases nothing.
    release: bool = True
    """false: a trial, such as those of `sweep`. The champion is compared with nothing and not
    released, so the prompts that decide about releases stay closed."""
    # Without it only a proved gain releases. A share, as `decide.retention_margin` is.
    margin: Annotated[float, Field(gt=0.0, le=0.2)] | None = None
    """Share of right answers (of `decide.score: error` the mean error), 0 to 0.2, by which a model
    may be worse than the last release and still replace it (non-inferiority); null: it must be
    proved better. Against the base model a gain must be proved in either case."""
    approval: Literal["none", "required"] = "none"
    """`required`: a campaign ends with the champion compared and not released, and `ratchet approve
    RUN` releases it. `none`: it is released at once."""
    license: str = ""
    """License of the published model for its card, an identifier of the hub such as `apache-2.0`;
    empty: the card names none."""
