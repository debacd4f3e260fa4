"""A campaign as a step finds it: a state with what it names, loaded and verified."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from components.contracts import artifacts
from components.contracts.recipe import Recipe
from components.contracts.state import STATE_STEPS, Frozen, State, with_plan
from components.errors import Corrupt, UserError
from components.runtime.context import Context
from components.runtime.receipts import Receipt, Task, fetch, read_receipt, ref_of_uri


class Campaign(Frozen):
    """A state with what it names, loaded and verified: what most steps begin with."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    state: State
    state_receipt: Receipt
    start: Receipt
    prepared: Receipt
    recipe: Recipe
    """As this round is carried out: with the plan's settings in it."""
    written: Recipe
    """As the person wrote it: what the bounds of the plan are relative to."""

    @property
    def next_round(self) -> int:
        """Number of the round that is being carried out."""
        return self.state.next_round

    @property
    def champion_ref(self) -> str:
        """Ref of the champion's train receipt. Raises UserError before there is one."""
        if self.state.champion is None:
            raise UserError(
                f"{self.state_receipt.ref}: this campaign has no champion yet (round 0 did not finish)"
            )
        return self.state.champion

    def task(self, step: str, suffix: str = "") -> Task:
        """The name this round's task has in attempt records, `train-r2`."""
        return Task(
            run_id=self.state.run_id,
            name=f"{step}-r{self.next_round}{suffix}",
            round=self.next_round,
        )

    def config(self, **parts: Any) -> dict[str, Any]:
        """The part of the recipe a step depends on, as plain JSON."""
        return {
            name: part.model_dump(mode="json") if isinstance(part, BaseModel) else part
            for name, part in parts.items()
        }


def checkpoint_name(peer: int) -> str:
    """Folder of a peer's checkpoint in a train receipt; peer 0 is the model itself."""
    return "model" if peer == 0 else f"peer-{peer}"


def base_name(prepared: Receipt, peer: int) -> str:
    """Folder of the checkpoint a peer begins from: peers of a scratch model have initial weights of
    their own."""
    own = f"base-{peer}"
    return own if f"{own}/{artifacts.CHECKPOINT_CONFIG}" in prepared.objects else "base"


def load_campaign(context: Context, uri: str) -> Campaign:
    """Load the state behind a URI, its data, base model and resolved recipe. Raises Missing or
    Corrupt."""
    receipt = read_receipt(context, ref_of_uri(context, uri))
    if receipt.step not in STATE_STEPS:
        raise Corrupt(
            f"{uri} is a {receipt.step} receipt; a state is a receipt of {' or '.join(STATE_STEPS)}"
        )
    state = State.model_validate_json(fetch(context, receipt, artifacts.STATE).read_bytes())
    start = read_receipt(context, state.start) if state.start is not None else receipt
    prepared = read_receipt(context, state.prepared)
    written = Recipe.model_validate_json(fetch(context, start, artifacts.RECIPE).read_bytes())
    return Campaign(
        state=state,
        state_receipt=receipt,
        start=start,
        prepared=prepared,
        recipe=with_plan(written, state.plan),
        written=written,
    )
