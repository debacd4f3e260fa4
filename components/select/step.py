"""Score and filter the samples of a round and mix what is kept with the human rows."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.context import Context
from components.common.errors import Corrupt, UserError
from components.common.receipts import Receipt, commit_once, fetch, read_receipt
from components.common.records import Dropped, Prompt, Sample, TrainingRow, read_rows, write_rows
from components.common.state import Campaign, load_campaign
from components.select.filters import Candidate, Rules, apply_filters, make_candidates, normalised, row_key
from components.select.mix import accumulate, weigh


@dataclass(frozen=True)
class SelectInputs:
    """What is filtered."""

    state: str
    """URI of the state the round began from."""
    samples: tuple[Receipt, ...]
    """Receipts of all shards of generate, in any order."""


def run(inputs: SelectInputs, context: Context) -> Receipt:
    """Write `accepted.jsonl`, `dropped.jsonl` and the weighted `mix.jsonl`.

    Every sample is in exactly one of the first two files. Raises Corrupt if shards are missing or of another round or
    champion, UserError if fewer rows were accepted than `select.min_accepted`.
    """
    campaign = load_campaign(context, inputs.state)
    shards = _in_order(campaign, inputs.samples)
    earlier = [read_receipt(context, ref) for ref in campaign.state.selections]
    human_share = campaign.state.plan.human_share

    def work(folder: Path) -> dict[str, Any]:
        begun = context.clock()
        summary = _select(context, campaign, shards, earlier, folder)
        context.charge("compute_seconds", context.clock() - begun)
        return summary

    return commit_once(
        context,
        campaign.task("select"),
        "select",
        config=campaign.config(
            section=campaign.recipe.select.model_dump(mode="json", exclude={"human_share"}),  # in the plan
            round=campaign.next_round,
            human_share=human_share,
            samples=[shard.ref for shard in shards],
        ),
        inputs={
            "prepare": campaign.prepared,
            **{f"generate-{number}": shard for number, shard in enumerate(shards)},
            **{f"select-{number}": receipt for number, receipt in enumerate(earlier)},
        },
        seed=campaign.recipe.seed,
        work=work,
    )


def _in_order(campaign: Campaign, samples: Sequence[Receipt]) -> list[Receipt]:
    """The shards by number, once it is sure that they are all there and belong together."""
    shards = sorted(samples, key=lambda receipt: int(receipt.summary.get("shard", -1)))
    for receipt in shards:
        about = receipt.step, receipt.summary.get("round"), receipt.summary.get("champion")
        expected = "generate", campaign.next_round, campaign.state.champion
        if about != expected:
            raise Corrupt(f"{receipt.ref} is (step, round, champion) {about}; select of this round needs {expected}")
    numbers = [receipt.summary["shard"] for receipt in shards]
    counts = {receipt.summary["shards"] for receipt in shards}
    if len(counts) != 1 or numbers != list(range(counts.pop())):
        told = sorted({receipt.summary["shards"] for receipt in shards})
        raise Corrupt(f"round {campaign.next_round}: got shards {numbers} of {told}; all shards, each once, are needed")
    return shards


def _select(
    context: Context, campaign: Campaign, shards: list[Receipt], earlier: list[Receipt], folder: Path
) -> dict[str, Any]:
    human = list(read_rows(fetch(context, campaign.prepared, "splits/train.jsonl"), TrainingRow))
    rules = Rules(
        section=campaign.recipe.select,
        evaluation_ids=_evaluation_ids(context, campaign),
        human_keys=frozenset(row_key(row.prompt, row.completion) for row in human),
    )
    candidates = _candidates(context, shards)
    kept, dropped = apply_filters(candidates, rules)
    _enough(campaign, candidates, kept, dropped)
    accepted = [_row(campaign, one) for one in kept]
    files = [fetch(context, receipt, "accepted.jsonl") for receipt in reversed(earlier)]
    older, left_out = accumulate((row for file in files for row in read_rows(file, TrainingRow)), accepted, rules)
    if campaign.recipe.select.unsafe_replace:
        human, older = [], []
    mix = weigh(
        human, older, accepted,
        human_share=campaign.state.plan.human_share, newest_share=campaign.recipe.select.newest_share,
    )  # fmt: skip
    write_rows(folder / "accepted.jsonl", accepted)
    write_rows(folder / "dropped.jsonl", dropped)
    write_rows(folder / "mix.jsonl", mix)
    return {
        "round": campaign.next_round, "generated": len(candidates), "accepted": len(accepted),
        "acceptance": len(accepted) / len(candidates), "dropped": _by_reason(dropped),
        "human_rows": len(human), "self_rows": len(older) + len(accepted),
        "older_left_out": dict(sorted(left_out.items())),
        "prompts": len({one.prompt.id for one in candidates}), "prompts_accepted": len({one.prompt.id for one in kept}),
        "distinct_share": len({(one.prompt.id, normalised(one.text)) for one in candidates}) / len(candidates),
        "mean_answer_tokens": statistics.fmean(one.sample.num_tokens for one in candidates),
    }  # fmt: skip


def _evaluation_ids(context: Context, campaign: Campaign) -> frozenset[str]:
    return frozenset(
        prompt.id
        for split in ("validation", "test")
        for prompt in read_rows(fetch(context, campaign.prepared, f"splits/{split}.jsonl"), Prompt)
    )


def _candidates(context: Context, shards: list[Receipt]) -> list[Candidate]:
    prompts: dict[str, Prompt] = {}
    samples: list[Sample] = []
    for shard in shards:
        prompts.update((prompt.id, prompt) for prompt in read_rows(fetch(context, shard, "prompts.jsonl"), Prompt))
        samples += read_rows(fetch(context, shard, "samples.jsonl"), Sample)
    return make_candidates(prompts, samples)


def _enough(campaign: Campaign, candidates: list[Candidate], kept: list[Candidate], dropped: list[Dropped]) -> None:
    least = campaign.recipe.select.min_accepted
    if len(kept) >= least:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in _by_reason(dropped).items()) or "none dropped"
    raise UserError(
        f"round {campaign.next_round}: {len(kept)} of {len(candidates)} samples accepted, select.min_accepted is "
        f"{least} (dropped: {reasons}). The model answers too few of these prompts: lower generate.temperature, use "
        "easier prompts, train the first stage longer, or raise generate.samples_per_prompt or .prompts_per_round"
    )


def _by_reason(dropped: list[Dropped]) -> dict[str, int]:
    return dict(sorted(Counter(row.reason for row in dropped).items()))


def _row(campaign: Campaign, one: Candidate) -> TrainingRow:
    return TrainingRow(
        id=f"{one.prompt.id}-r{campaign.next_round}-{one.sample.index}",
        prompt=one.prompt.text,
        completion=one.text,
        source="self",
        round=campaign.next_round,
        tags=one.prompt.tags,
        provenance={
            "champion": campaign.state.champion,
            "prompt_id": one.prompt.id,
            "index": one.sample.index,
            "seed": one.sample.seed,
            "vote_share": one.vote_share,
            "verdict": one.prompt.verifier if campaign.recipe.select.verifier else "unverified",
        },
    )
