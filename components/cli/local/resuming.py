"""Mistakes of `--resume-from` that show before a task, in the campaign that it names."""

from __future__ import annotations

from components.contracts.recipe import Recipe
from components.errors import UserError
from components.prepare.first_state import resumed_campaign
from components.runtime.context import Context
from components.runtime.receipts import read_receipt


def check_resumed(context: Context, uri: str, recipe: Recipe) -> None:
    """Raise UserError if a run of this recipe cannot go on from a state.

    Args:
        context: Store of the state.
        uri: The state.
        recipe: Recipe of the new run.

    Raises:
        UserError: `prepare` would refuse the state, or `train` its champion.
        Corrupt: A part of the campaign is damaged.
    """
    campaign = resumed_campaign(context, uri, recipe)
    champion = campaign.state.champion
    is_base = champion in (None, campaign.prepared.ref)
    if recipe.train.lora is None or recipe.train.init_from == "base" or is_base:
        return
    receipt = read_receipt(context, campaign.champion_ref)
    if not any(name.startswith("adapter/") for name in receipt.objects):
        raise UserError(
            f"--resume-from {uri}: train.lora: the champion of that run was trained in full, so "
            "there is no adapter to go on from; unset train.lora, set train.init_from to base, or "
            "begin a new campaign with the champion as model.source"
        )
