"""Sample answers from the champion: one shard of one round's prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.context import Context
from components.common.errors import UserError
from components.common.receipts import Receipt, commit_once, fetch, fetch_folder, read_receipt
from components.common.records import Prompt, Sample, derived_seed, read_rows, write_rows
from components.common.state import Campaign, checkpoint_name, load_campaign


@dataclass(frozen=True)
class GenerateInputs:
    """Which shard of which round."""

    state: str
    """URI of the state the round begins from."""
    shard: int
    """0 … recipe.generate.shards - 1."""


def run(inputs: GenerateInputs, context: Context) -> Receipt:
    """Write `samples.jsonl` and `prompts.jsonl` of this shard.

    A sample's seed derives from (campaign seed, round, prompt, sample index), so neither the number of shards nor the
    batch it happens to be in changes it. Raises UserError if the round has no prompts or fewer than shards.
    """
    campaign = load_campaign(context, inputs.state)
    champion = read_receipt(context, campaign.state.champion)
    section, plan = campaign.recipe.generate, campaign.state.plan
    prompts = round_prompts(context, campaign)[inputs.shard :: section.shards]
    if not prompts:
        raise UserError(
            f"round {campaign.next_round}: shard {inputs.shard} of {section.shards} has no prompts: lower shards"
        )

    def work(folder: Path) -> dict[str, Any]:
        samples = _sample(context, campaign, champion, prompts)
        write_rows(folder / "prompts.jsonl", prompts)
        write_rows(folder / "samples.jsonl", samples)
        return {
            "round": campaign.next_round, "shard": inputs.shard, "shards": section.shards, "prompts": len(prompts),
            "generated": len(samples), "tokens": sum(sample.num_tokens for sample in samples),
            "finished_share": sum(sample.finished for sample in samples) / len(samples),
            "temperature": plan.temperature, "level": plan.level, "champion": campaign.state.champion,
        }  # fmt: skip

    return commit_once(
        context,
        campaign.task("generate", f"-s{inputs.shard}"),
        "generate",
        config=campaign.config(
            section=section.model_dump(mode="json", exclude={"temperature", "samples_per_prompt"}),  # in the plan
            num_peers=campaign.recipe.train.num_peers,
            shard=inputs.shard,
            round=campaign.next_round,
            temperature=plan.temperature,
            samples_per_prompt=plan.samples_per_prompt,
            level=plan.level,
            system_prompt=campaign.recipe.model.system_prompt,
        ),
        inputs={"prepare": campaign.prepared, "champion": champion},
        seed=campaign.recipe.seed,
        work=work,
    )


def round_prompts(context: Context, campaign: Campaign) -> list[Prompt]:
    """The prompts of this round: the next window of the unlabelled pool, of the plan's length where there is a ladder.

    Rounds walk through the pool and begin again at its end, so the first rounds see prompts no round has seen.
    """
    level = campaign.state.plan.level
    pool = [
        prompt
        for prompt in read_rows(fetch(context, campaign.prepared, "splits/unlabelled.jsonl"), Prompt)
        if "length" not in prompt.tags or prompt.tags["length"] == str(level)
    ]
    if not pool:
        raise UserError(
            f"round {campaign.next_round}: no unlabelled prompts (level {level}); give data with prompts to answer"
        )
    # The pool comes task by task; a fixed shuffle lets every window hold all of them.
    pool.sort(key=lambda prompt: derived_seed(campaign.recipe.seed, "pool", prompt.id))
    count = min(campaign.recipe.generate.prompts_per_round, len(pool))
    begin = (campaign.next_round - 1) * count % len(pool)
    return (pool + pool)[begin : begin + count]


def _sample(context: Context, campaign: Campaign, champion: Receipt, prompts: list[Prompt]) -> list[Sample]:
    import torch

    from components.modeling.answers import answer_prompts
    from components.modeling.engine import Sampling

    torch.set_num_threads(context.shard_threads)
    section, plan = campaign.recipe.generate, campaign.state.plan
    sampling = Sampling(plan.temperature, section.top_k, section.top_p, section.max_new_tokens, section.batch_size)
    peers, samples = campaign.recipe.train.num_peers, []
    for peer in range(peers):
        indices = range(peer, plan.samples_per_prompt, peers)
        seeds = [
            [derived_seed(campaign.recipe.seed, campaign.next_round, prompt.id, index) for index in indices]
            for prompt in prompts
        ]
        folder = fetch_folder(context, champion, checkpoint_name(peer))
        own = answer_prompts(context, folder, campaign.recipe.model.system_prompt, prompts, seeds, sampling)
        samples += [item.model_copy(update={"index": indices[item.index]}) for item in own]
    order = {prompt.id: place for place, prompt in enumerate(prompts)}
    return sorted(samples, key=lambda item: (order[item.prompt_id], item.index))
