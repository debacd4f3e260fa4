"""The recipe's section `publish`: the name of the published model."""

from __future__ import annotations

from components.contracts.recipe.section import Name, Section


class PublishSection(Section):
    """The name that the best model is published under."""

    name: Name = "ratchet-model"
