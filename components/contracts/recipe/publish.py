"""The recipe's section `publish`: where the best model goes."""

from __future__ import annotations

from components.contracts.recipe.section import Name, Section


class PublishSection(Section):
    """Where the best model goes."""

    name: Name = "ratchet-model"
