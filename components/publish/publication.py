"""A champion that may be released, and everything that its release depends on."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from components.canonical import JsonObject
from components.contracts.recipe import Recipe
from components.contracts.releases import Line, Opening, OpeningId
from components.contracts.summaries.publish import Split
from components.errors import UserError
from components.publish.openings import (
    MAX_SPENT_OPENINGS,
    Label,
    deciding_split,
    nearly_worn_out,
    opened,
)
from components.publish.rivals import RivalModel, rivals_document, rivals_of
from components.runtime.campaign import Campaign
from components.runtime.code_digest import code_digest
from components.runtime.context import Context
from components.runtime.ledger import weights_digest, withdrawn_release
from components.runtime.receipts import Receipt, digests_of, read_receipt, step_key


@dataclass(frozen=True)
class Publication:
    """A champion, and everything that its release depends on."""

    campaign: Campaign
    champion: Receipt
    """Receipt that holds it: of train, or of prepare for the base."""
    champion_round: int | None
    """Round that trained it; None if it is the base."""
    evaluation: Receipt
    weights: str
    """Digest of its weights."""
    split: Split
    """Prompts that decide."""
    prompts: str
    """SHA-256 of their file."""
    rivals: tuple[RivalModel, ...]
    released_as: Line | None
    """The line in force, if it has these very weights."""
    opening: tuple[OpeningId, Opening] | None
    """None if no prompts need to be opened, or may be."""
    refusal: str
    """Reason against a release that needs no comparison; empty if there is none."""
    new_prompts_due: bool
    """Without a release the prompts have one opening left, or none."""

    @property
    def recipe(self) -> Recipe:
        """Recipe of the campaign."""
        return self.campaign.recipe

    @property
    def inputs(self) -> dict[str, Receipt]:
        """Receipts that the result depends on."""
        return {
            "state": self.campaign.state_receipt,
            "champion": self.champion,
            "evaluation": self.evaluation,
        }

    @property
    def config(self) -> JsonObject:
        """Everything else that the result depends on."""
        recipe = self.recipe
        opening: JsonValue = None
        if self.opening is not None:
            opening = [part.model_dump(mode="json") for part in self.opening]
        return {
            "publish": recipe.publish.model_dump(mode="json"),
            "system_prompt": recipe.model.system_prompt,
            "prompts": self.prompts,
            # Releases are receipts of other runs, so they are no inputs, which are of this run.
            "rivals": rivals_document(self.rivals),
            "released_as": self.released_as.publish
            if self.released_as is not None
            else None,
            "opening": opening,
            "refusal": self.refusal,
        }

    @property
    def version(self) -> str:
        """Name of the folder: the round, and a digest of everything that its files depend on."""
        # Two receipts never share a folder, so no file of a published one is ever written again.
        code = code_digest("publish")
        seed = self.recipe.seed
        key = step_key("publish", code, self.config, digests_of(self.inputs), seed)
        return f"r{self.champion_round}-{key[:12]}"


def publication_of(
    context: Context, campaign: Campaign, lines: list[Line]
) -> Publication:
    """Return a campaign's champion, and all that its release depends on.

    If prompts have to decide, their opening is recorded.

    Args:
        context: Store of the ledger.
        campaign: The campaign.
        lines: The ledger of its name.

    Raises:
        UserError: The campaign has no champion.
    """
    state = campaign.state
    if state.champion is None or state.champion_evaluation is None:
        raise UserError(
            "nothing to publish: the campaign has no champion yet (the base model is not measured)"
        )
    champion = read_receipt(context, state.champion)
    recipe = campaign.recipe
    name = recipe.publish.name
    weights = weights_digest(champion, "model")
    split, prompts = deciding_split(campaign.prepared)
    rivals = rivals_of(context, campaign, lines, recipe.publish.margin)
    released_as = None
    opening = None
    refusal = ""
    new_prompts_due = False
    if not recipe.publish.release:
        refusal = "the recipe releases nothing (publish.release: false)"
    # Before the next: a base that is the release in force has its very weights too.
    elif any(rival.kind == "base" and rival.weights == weights for rival in rivals):
        refusal = "the champion is the base model: no round was proved better than it"
    elif lines and lines[-1].weights == weights:
        released_as = lines[-1]
    elif withdrawn := withdrawn_release(lines, weights):
        # A retraining on a schedule must not undo what a person did by hand.
        refusal = (
            f"these very weights are release {withdrawn.number} ({withdrawn.version}), which was "
            f"rolled back; `rollback {name} {withdrawn.version}` puts it in force again"
        )
    else:
        opening = opened(
            context,
            prompts,
            recipe.decide.alpha,
            weights,
            tuple(rival.weights for rival in rivals),
            Label(name, campaign.state.run_id),
        )
        new_prompts_due = opening is None or nearly_worn_out(opening[1])
        if opening is None:
            refusal = (
                f"the {split} prompts are worn out: they were opened {MAX_SPENT_OPENINGS} times "
                "without a release; give new ones"
            )
    return Publication(
        campaign=campaign,
        champion=champion,
        champion_round=state.champion_round,
        evaluation=read_receipt(context, state.champion_evaluation),
        weights=weights,
        split=split,
        prompts=prompts,
        rivals=tuple(rivals),
        released_as=released_as,
        opening=opening,
        refusal=refusal,
        new_prompts_due=new_prompts_due,
    )
