"""A campaign: a state with the receipts and the recipe that it names, loaded and verified."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from components.contracts import artifacts
from components.contracts.recipe import Recipe
from components.contracts.state import STATE_STEPS, Frozen, State, with_plan
from components.contracts.summaries import StartSummary
from components.errors import Corrupt, UserError
from components.runtime.attempts import Task
from components.runtime.context import Context
from components.runtime.log_lines import LogSubject
from components.runtime.receipts import (
    Receipt,
    fetch,
    read_receipt,
    read_summary,
    ref_of_uri,
)
from components.sandbox.code_bundles import register

ConfigPart = BaseModel | JsonValue
BEFORE_ROUNDS = -1
"""Round of the base model's tasks in attempt records."""


class Campaign(Frozen):
    """A state with all that it names. Most steps begin with one."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    state: State
    state_receipt: Receipt
    start: Receipt
    prepared: Receipt
    recipe: Recipe
    """The recipe that this round is carried out by: with the plan's settings in it."""
    written: Recipe
    """The recipe that the person wrote: bounds of the plan are relative to it."""

    @property
    def next_round(self) -> int:
        """Number of the round that is being carried out."""
        return self.state.next_round

    @property
    def champion_ref(self) -> str:
        """Ref of the receipt with the champion's `model/`. Raises UserError before there is one."""
        if self.state.champion is None:
            raise UserError(
                f"{self.state_receipt.ref}: this campaign has no champion yet (the base model is "
                "not measured)"
            )
        return self.state.champion

    @property
    def teacher_ref(self) -> str | None:
        """Ref of the receipt with the teacher's `model/`; None where the champion answers."""
        if self.recipe.generate.teacher is None:
            return None
        teacher = read_summary(self.start, StartSummary).teacher
        if teacher is None:
            raise Corrupt(
                f"{self.start.ref}: its recipe names a teacher, and its summary has none"
            )
        return teacher.receipt

    def task(self, step: str, suffix: str = "") -> Task:
        """Return the task of this round, whose name in attempt records is `train-r2`."""
        return Task(
            run_id=self.state.run_id,
            name=f"{step}-r{self.next_round}{suffix}",
            round=self.next_round,
        )

    def config(self, **parts: ConfigPart) -> dict[str, JsonValue]:
        """Return the parts of the recipe that a step depends on as plain JSON."""
        config: dict[str, JsonValue] = {}
        for name, part in parts.items():
            config[name] = (
                part.model_dump(mode="json") if isinstance(part, BaseModel) else part
            )
        return config


def checkpoint_name(peer: int) -> str:
    """Return the folder that a peer's checkpoint is written to; peer 0 is the model itself."""
    return "model" if peer == 0 else f"peer-{peer}"


def checkpoint_in(model: Receipt, peer: int) -> str:
    """Return the folder of a peer's checkpoint in the receipt of prepare or train."""
    # Peers of a scratch model have initial weights of their own; others begin as one model.
    own = checkpoint_name(peer)
    has_own = f"{own}/{artifacts.CHECKPOINT_CONFIG}" in model.objects
    return own if has_own else checkpoint_name(0)


def load_campaign(context: Context, uri: str) -> Campaign:
    """Load the state behind a URI, its data, base model and resolved recipe.

    Raises:
        Missing: One of them is gone.
        Corrupt: One of them is damaged, or the URI is of no state.
        UserError: Another version of Ratchet stored the state or the recipe, in a form that this
            one refuses.
    """
    receipt = read_receipt(context, ref_of_uri(context, uri))
    if receipt.step not in STATE_STEPS:
        state_steps = " or ".join(STATE_STEPS)
        raise Corrupt(
            f"{uri} is a {receipt.step} receipt; a state is a receipt of {state_steps}"
        )
    state = read_state(context, receipt)
    # What goes wrong from here on is logged as the run's.
    context.progress.know(LogSubject(run=state.run_id, round=state.next_round))
    # A start receipt cannot name itself: its digest would have to be in its own state.
    start = read_receipt(context, state.start) if state.start is not None else receipt
    prepared = read_receipt(context, state.prepared)
    if artifacts.CHECKER in prepared.objects:
        # The rows name the code of their verifier by this digest.
        digest = prepared.objects[artifacts.CHECKER].sha256
        register(digest, fetch(context, prepared, artifacts.CHECKER))
    # From the start receipt, not from the caller: every round of a run has the same recipe.
    written = _read_recipe(context, start, state.run_id)
    return Campaign(
        state=state,
        state_receipt=receipt,
        start=start,
        prepared=prepared,
        recipe=with_plan(written, state.plan),
        written=written,
    )


def read_state(context: Context, receipt: Receipt) -> State:
    """Return the state that a receipt holds.

    Raises UserError if another version of Ratchet stored it, in a form that this one refuses.
    """
    document = fetch(context, receipt, artifacts.STATE).read_bytes()
    try:
        return State.model_validate_json(document)
    except ValidationError as error:
        # Its bytes are those that were stored, so it is whole: only the form differs.
        raise UserError(
            f"{receipt.ref}: its state was stored by another version of Ratchet "
            f"({_first_refusal(error)}); use that version, or begin a new run"
        ) from None


def _read_recipe(context: Context, start: Receipt, run_id: str) -> Recipe:
    """Return the recipe of a start receipt.

    Raises UserError, by run and key, if this version refuses it.
    """
    document = fetch(context, start, artifacts.RECIPE).read_bytes()
    try:
        return Recipe.model_validate_json(document)
    except ValidationError as error:
        raise UserError(
            f"run {run_id}: this version of Ratchet does not take its recipe, as it was stored "
            f"({_first_refusal(error)}); use the version that stored it, or begin a new run without "
            "resume_from"
        ) from None


def _first_refusal(error: ValidationError) -> str:
    """Return the first key of a document that is refused, and the reason."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}"
    reason = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {reason}" if key else reason
