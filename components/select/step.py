"""Score and filter the samples of a round and mix what is kept with the labelled rows."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.canonical import normalised_text
from components.contracts.artifacts import ACCEPTED, DROPPED, MIX, split_file
from components.contracts.rows import TrainingRow, answered, write_rows
from components.contracts.summaries import GenerateSummary, SelectSummary
from components.contracts.summaries.select import HintedCounts, HintPool
from components.errors import Corrupt, UserError
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, commit_once, fetch, read_receipt, read_summary
from components.select import attribute_shift
from components.select.filter_chain import Account, collect, filter_all
from components.select.filter_settings import FilterSettings
from components.select.hint_pool import Pool, with_hinted
from components.select.mix import accumulate, weigh
from components.select.reserved_prompts import audit_ids, evaluation_items, validation_prompts
from components.select.row_files import RowFile, write_line
from components.select.scored_sample_file import ScoredSampleFile
from components.select.scored_samples import Block, ScoredSample, by_prompt, row_key
from components.select.scorers import scorers_of
from components.select.sorted_samples import gather


@dataclass(frozen=True)
class SelectInputs:
    """What is filtered."""

    state: str
    """URI of the state the round began from."""
    samples: tuple[Receipt, ...]
    """Receipts of all shards of generate, in any order."""


def run(inputs: SelectInputs, context: Context) -> Receipt:
    """Write `accepted.jsonl`, `dropped.jsonl` and the weighted `mix.jsonl`; with `generate.hints`
    also the pool of prompts that wait for a hint, `too_hard.jsonl`.

    Every sample is in exactly one of the first two files. Raises Corrupt if shards are missing or
    of another round or champion, UserError if fewer rows were accepted than `select.min_accepted`.
    """
    campaign = load_campaign(context, inputs.state)
    shards = _in_order(campaign, inputs.samples)
    earlier = [read_receipt(context, ref) for ref in campaign.state.selections]
    labelled_share = campaign.state.plan.labelled_share

    def work(folder: Path) -> SelectSummary:
        begun = context.clock()
        summary = _select(context, campaign, shards, earlier, folder)
        context.charge("compute_seconds", context.clock() - begun)
        return summary

    return commit_once(
        context,
        campaign.task("select"),
        "select",
        config=campaign.config(
            **_config(campaign),
            round=campaign.next_round,
            labelled_share=labelled_share,
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


def _config(campaign: Campaign) -> dict[str, Any]:
    """The recipe as far as the result depends on it."""
    section = campaign.recipe.select
    in_plan, how = {"labelled_share": True}, {"judge": {"concurrency"}, "reward": {"batch_size"}}
    exclude: dict[str, Any] = {
        **in_plan,
        **{name: fields for name, fields in how.items() if getattr(section, name) is not None},
    }
    config: dict[str, Any] = {"section": section.model_dump(mode="json", exclude=exclude)}
    if section.likelihood is not None or section.influence is not None:
        config["max_length"] = campaign.recipe.train.max_length
    if campaign.recipe.generate.hints is not None:
        config["hint"] = campaign.recipe.generate.hints.template
    return config


def _in_order(campaign: Campaign, samples: Sequence[Receipt]) -> list[Receipt]:
    """The shards by number, once it is sure that they are all there and belong together."""
    shards = [(receipt, read_summary(receipt, GenerateSummary)) for receipt in samples]
    shards.sort(key=lambda shard: shard[1].shard)
    expected = campaign.next_round, campaign.state.champion
    for receipt, summary in shards:
        if (summary.round, summary.champion) != expected:
            raise Corrupt(
                f"{receipt.ref} is of (round, champion) {(summary.round, summary.champion)}; "
                f"select of this round needs {expected}"
            )
    numbers = [summary.shard for _, summary in shards]
    counts = sorted({summary.shards for _, summary in shards})
    if len(counts) != 1 or numbers != list(range(counts[0])):
        raise Corrupt(
            f"round {campaign.next_round}: got shards {numbers} of {counts}; all shards, each once, are needed"
        )
    return [receipt for receipt, _ in shards]


def _select(
    context: Context,
    campaign: Campaign,
    shards: list[Receipt],
    earlier: list[Receipt],
    folder: Path,
) -> SelectSummary:
    context.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="select-", dir=context.scratch) as scratch:
        return _Selection(context, campaign, folder, Path(scratch)).run(shards, earlier)


class _Selection:
    """One round's selection. Rows pass by in blocks: only keys and counts of all of them are in
    memory."""

    def __init__(self, context: Context, campaign: Campaign, folder: Path, scratch: Path) -> None:
        self._context, self._campaign, self._folder, self._scratch = (
            context,
            campaign,
            folder,
            scratch,
        )
        self._section = campaign.recipe.select
        self._labelled = RowFile(fetch(context, campaign.prepared, split_file("train")))
        self._labelled_keys = frozenset(
            row_key(row.prompt, row.completion) for row in self._labelled
        )
        self._evaluation = evaluation_items(context, campaign.prepared)
        self._audit_ids = audit_ids(context, campaign.prepared)
        self._about = _Seen(self._audit_ids)
        self._hints = campaign.recipe.generate.hints
        self._pool = Pool()

    def run(self, shards: list[Receipt], earlier: list[Receipt]) -> SelectSummary:
        """Write the files and return the summary."""
        blocks = self._about.watch(self._blocks(shards))
        samples, audit = collect(blocks, self._audit_ids, self._scratch / "pass-0")
        with scorers_of(self._context, self._campaign, self._scratch) as scorers:
            settings = FilterSettings(
                section=self._section,
                folder=self._scratch,
                seed=self._campaign.recipe.seed,
                evaluation=self._evaluation,
                validation=validation_prompts(self._context, self._campaign.prepared),
                labelled_keys=self._labelled_keys,
                scorers=scorers,
                audit=audit,
                hints=self._hints,
            )
            with (self._folder / DROPPED).open("wb") as rejected:
                left, account = filter_all(samples, settings, rejected)
        _enough(self._campaign, account)
        prompts_accepted, prompts_helped = self._write_accepted(left)
        mix = self._write_mix(earlier)
        pool = self._write_pool(earlier)
        sampled = _Sampled.of(shards)
        return SelectSummary(
            round=self._campaign.next_round,
            shards=tuple(shard.ref for shard in shards),
            generated=account.given,
            accepted=account.accepted,
            acceptance=account.accepted / account.given if account.given else None,
            dropped=account.by_reason,
            filters=account.filters,
            prompts=self._about.prompts,
            prompts_accepted=prompts_accepted,
            audit_samples=len(audit),
            distinct_share=self._about.distinct_share,
            mean_answer_tokens=self._about.mean_answer_tokens,
            tokens_sampled=sampled.tokens,
            finished_share=sampled.finished_share,
            labelled_rows=mix.labelled_rows,
            self_rows=mix.self_rows,
            older_left_out=mix.older_left_out,
            bias=mix.bias,
            votes=account.votes,
            audit=account.audit,
            teaches_errors=account.audit.teaches_errors if account.audit is not None else (),
            why_blocked=_why_blocked(self._context, account),
            hinted=self._hinted_counts(account, prompts_helped),
            too_hard=pool,
        )

    def _blocks(self, shards: list[Receipt]) -> Iterator[Block]:
        """All samples of the round, with a hint and without."""
        blocks = gather(self._context, shards, self._scratch)
        if self._hints is None:
            return blocks
        folder = self._scratch / "hinted"
        folder.mkdir()
        return self._pool.watch(with_hinted(blocks, self._context, shards, folder))

    def _write_pool(self, earlier: list[Receipt]) -> HintPool | None:
        """Write `too_hard.jsonl`; nothing at all without hints."""
        if self._hints is None:
            return None
        return self._pool.carry_on(
            self._context,
            earlier[-1] if earlier else None,
            self._campaign.next_round,
            self._folder,
            RowFile(self._folder / ACCEPTED),
        )

    def _hinted_counts(self, account: Account, prompts_accepted: int) -> HintedCounts | None:
        helped = account.hinted
        if helped is None:
            return None
        return HintedCounts(
            prompts=len(self._pool.tried),
            generated=helped.given,
            accepted=helped.accepted,
            dropped=helped.by_reason,
            filters=helped.filters,
            prompts_accepted=prompts_accepted,
        )

    def _write_accepted(self, left: ScoredSampleFile) -> tuple[int, int]:
        """Write `accepted.jsonl`, weights relative to their mean; gives back how many prompts have
        a row in it from a sample without a hint, and how many from one with it."""
        total, prompts = 0.0, [0, 0]
        for block in left.blocks():
            total += sum(one.weight for one in block)
            for own in by_prompt(block):
                prompts[own[0].hinted] += 1
        mean = total / max(1, left.count)
        with (self._folder / ACCEPTED).open("wb") as file:
            for block in left.blocks():
                for one in block:
                    write_line(file, _row(self._campaign, one, one.weight / mean))
        left.remove()
        return prompts[0], prompts[1]

    def _write_mix(self, earlier: list[Receipt]) -> _MixCounts:
        """Write `mix.jsonl` from labelled rows, earlier rounds and this one."""
        accepted = RowFile(self._folder / ACCEPTED)
        labelled: Iterable[TrainingRow] = self._labelled
        files = [fetch(self._context, receipt, ACCEPTED) for receipt in reversed(earlier)]
        left_out = Counter[str]()
        num_older = write_rows(
            self._scratch / "older.jsonl",
            accumulate(
                RowFile(*files),
                accepted,
                evaluation_ids=frozenset(prompt.id for prompt, _ in self._evaluation),
                labelled_keys=self._labelled_keys,
                left_out=left_out,
            ),
        )
        older: Iterable[TrainingRow] = RowFile(self._scratch / "older.jsonl")
        if self._section.unsafe_replace:
            labelled, older, num_older = [], [], 0
        mix = weigh(
            labelled,
            older,
            accepted,
            labelled_share=self._campaign.state.plan.labelled_share,
            newest_share=self._section.newest_share,
        )
        rows = write_rows(self._folder / MIX, mix)
        num_self = num_older + sum(1 for _ in accepted)
        return _MixCounts(
            labelled_rows=rows - num_self,
            self_rows=num_self,
            older_left_out=dict(sorted(left_out.items())),
            bias=attribute_shift.distances(
                attribute_shift.attributes(accepted), attribute_shift.attributes(self._labelled)
            ),
        )


@dataclass(frozen=True)
class _MixCounts:
    """What is in a mix, and what not; see `SelectSummary`."""

    labelled_rows: int
    self_rows: int
    older_left_out: dict[str, int]
    bias: dict[str, float]


@dataclass(frozen=True)
class _Sampled:
    """What generate drew for a round, over all shards."""

    tokens: int
    """With and without hints."""
    finished_share: float | None
    """Without hints; None without samples."""

    @classmethod
    def of(cls, shards: Iterable[Receipt]) -> _Sampled:
        """Add up the summaries of all shards."""
        summaries = [read_summary(shard, GenerateSummary) for shard in shards]
        num_samples = sum(summary.generated for summary in summaries)
        num_finished = sum(summary.finished_share * summary.generated for summary in summaries)
        hinted_tokens = sum(
            summary.hinted.tokens for summary in summaries if summary.hinted is not None
        )
        return cls(
            tokens=sum(summary.tokens for summary in summaries) + hinted_tokens,
            finished_share=num_finished / num_samples if num_samples else None,
        )


@dataclass
class _Seen:
    """What is counted of all samples as they pass by, but those of the audit and those with a hint."""

    audit_ids: frozenset[str]
    samples: int = 0
    prompts: int = 0
    distinct: int = 0
    tokens: int = 0

    def watch(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The same blocks."""
        for block in blocks:
            for own in by_prompt(block):
                if own[0].prompt.id in self.audit_ids or own[0].hinted:
                    continue
                self.prompts += 1
                self.samples += len(own)
                self.distinct += len({normalised_text(one.text) for one in own})
                self.tokens += sum(one.sample.num_tokens for one in own)
            yield block

    @property
    def distinct_share(self) -> float | None:
        """Share of the samples whose text differs from the prompt's earlier ones."""
        return self.distinct / self.samples if self.samples else None

    @property
    def mean_answer_tokens(self) -> float | None:
        """Tokens a sample."""
        return self.tokens / self.samples if self.samples else None


def _why_blocked(context: Context, account: Account) -> str | None:
    """Say with the numbers why `decide` is to reject the candidate of this round; None if it is not.

    What the filters keep is then not proved to be righter than what the model says anyway, so
    training on it teaches the model its own errors (2510.16657).
    """
    audit = account.audit
    if audit is None or not audit.teaches_errors:
        return None
    whole = audit.all
    precision = "nothing kept" if whole.precision is None else f"precision {whole.precision:.3f}"
    why = (
        f"on {audit.prompts} audit prompts {', '.join(audit.teaches_errors)} keep {precision} (lower 95 % bound "
        f"{whole.precision_low:.3f}), the model's own accuracy is {audit.model_accuracy:.3f}: this round teaches "
        "errors. Use stricter filters (select.min_vote_share, a verifier, a judge), or a larger audit split"
    )
    context.progress.note(why)
    return why


def _enough(campaign: Campaign, account: Account) -> None:
    least, helped = (
        campaign.recipe.select.min_accepted,
        account.hinted.accepted if account.hinted is not None else 0,
    )
    if account.accepted + helped >= least:
        return
    reasons = (
        ", ".join(f"{reason} {count}" for reason, count in account.by_reason.items())
        or "none dropped"
    )
    more = f", and {helped} with a hint" if account.hinted is not None else ""
    raise UserError(
        f"round {campaign.next_round}: {account.accepted} of {account.given} samples accepted{more}, select.min_accepted "
        f"is {least} (dropped: {reasons}). The model answers too few of these prompts: lower generate.temperature, use "
        "easier prompts, train the first stage longer, or raise generate.samples_per_prompt or .prompts_per_round"
    )


def _row(campaign: Campaign, one: ScoredSample, weight: float) -> TrainingRow:
    """An accepted sample as a row, with all that says why it may teach."""
    provenance: dict[str, Any] = {
        "champion": campaign.state.champion,
        "prompt_id": one.prompt.id,
        "index": one.sample.index,
        "seed": one.sample.seed,
        "vote_share": one.vote_share,
        "verdict": one.prompt.verifier if campaign.recipe.select.verifier else "unverified",
    }
    if one.scores:
        provenance["scores"] = dict(one.scores)
    if one.pass_rate is not None:
        provenance["pass_rate"] = one.pass_rate
    if one.hinted:
        provenance["hinted"] = True
    return TrainingRow(
        id=f"{one.prompt.id}-r{campaign.next_round}-{one.sample.index}",
        prompt=one.prompt.text,
        completion=one.text,
        conversation=answered(one.prompt, one.text),
        source="self",
        round=campaign.next_round,
        weight=weight,
        tags=one.prompt.tags,
        provenance=provenance,
    )
