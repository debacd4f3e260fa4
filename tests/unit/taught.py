"""Campaigns that `prepare` began, ready for their first round."""

from __future__ import annotations

from components.canonical import canonical_json
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, receipt_uri
from tests.unit.crafted import store


def first_round(context: Context, start: Receipt) -> str:
    """URI of the state before round 1, whose champion is the base."""
    campaign = load_campaign(context, receipt_uri(context, start))
    changes = {"start": start.ref, "champion": campaign.state.prepared, "round": 0}
    state = campaign.state.model_copy(update=changes)
    files = {"state.json": canonical_json(state.model_dump(mode="json"))}
    return receipt_uri(context, store(context, "champion", files, {}, {"start": start}))
