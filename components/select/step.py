"""Score and filter the samples of a round, and mix the accepted ones with the labelled rows."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from components.contracts.artifacts import ACCEPTED, DROPPED, MIX, split_file
from components.contracts.rows import TrainingRow, write_rows
from components.contracts.summaries import GenerateSummary, SelectSummary
from components.contracts.summaries.select import HintedCounts, HintPool
from components.errors import Corrupt
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import (
    Receipt,
    commit_once,
    fetch,
    read_receipt,
    read_summary,
)
from components.runtime.reserved_prompts import (
    audit_ids,
    evaluation_items,
    validation_prompts,
)
from components.runtime.reviews import verdicts_in
from components.select import attribute_shift
from components.select.accepted_rows import write_accepted
from components.select.filter_audit import reason_blocked, reason_unproved
from components.select.filter_chain import Account, collect, filter_all
from components.select.filter_settings import Classes, FilterSettings
from components.select.function_code import function_digest
from components.select.hint_pool import Pool, with_hinted
from components.select.mix import FEW_LABELLED, accumulate, weigh
from components.select.people import MarkedAnswers, people_batches
from components.select.row_files import RowFile
from components.select.sample_counts import DrawnCounts, SeenCounts
from components.select.scored_sample_file import ScoredSampleFile
from components.select.scored_samples import Block, ScoredSample, row_key
from components.select.scorers import scorers_of
from components.select.sorted_samples import gather
from components.select.weak_round import reason_weak
from components.select.worse_answers import BesideOwnAnswers, own_answers, worse_answers
from components.select.wrong_rows import write_wrong
from components.storage.sources import model_version
from components.verifiers import Room


@dataclass(frozen=True)
class SelectInputs:
    """Inputs of the step."""

    state: str
    """URI of the state the round began from."""
    samples: tuple[Receipt, ...]
    """Receipts of all shards of generate, in any order."""


def run(inputs: SelectInputs, context: Context) -> Receipt:
    """Write `accepted.jsonl`, `dropped.jsonl` and the weighted `mix.jsonl`.

    Every sample is in exactly one of the first two files. With `generate.hints` the pool of prompts
    that wait for a hint is written too, `too_hard.jsonl`. With fewer accepted samples than
    `select.min_accepted` the round is weak: it has no mix, so nothing is trained on it, and the
    summary says why.

    Raises:
        Corrupt: Shards are missing, or of another round or champion.
        UserError: The round waits for people.
    """
    campaign = load_campaign(context, inputs.state)
    shards = _in_order(campaign, inputs.samples)
    earlier = [read_receipt(context, ref) for ref in campaign.state.selections]
    batches = people_batches(context, campaign, shards)
    people_config: dict[str, JsonValue] = {}
    if batches:
        people_config["people"] = [batch.sha256 for batch in batches]

    def work(folder: Path) -> SelectSummary:
        start_seconds = context.clock()
        # A folder of its own: a try that fails leaves no files behind for the next one.
        context.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix="select-", dir=context.scratch
        ) as scratch:
            verdicts = verdicts_in(context, batches)
            selection = _Selection(context, campaign, folder, Path(scratch), verdicts)
            summary = selection.run(shards, earlier)
        context.charge("compute_seconds", context.clock() - start_seconds)
        return summary

    receipt = commit_once(
        context,
        campaign.task("select"),
        "select",
        config=campaign.config(
            **_config(context, campaign),
            round=campaign.next_round,
            labelled_share=campaign.state.plan.labelled_share,
            samples=[shard.ref for shard in shards],
            **people_config,
        ),
        inputs={
            "prepare": campaign.prepared,
            **{f"generate-{number}": shard for number, shard in enumerate(shards)},
            **{f"select-{number}": receipt for number, receipt in enumerate(earlier)},
        },
        seed=campaign.recipe.seed,
        work=work,
    )
    # Outside of the work: a person is told each time, finished work that is found again too.
    why_weak = read_summary(receipt, SelectSummary).why_weak
    if why_weak is not None:
        context.progress.warn(f"nothing is trained in this round: {why_weak}")
    return receipt


def _config(context: Context, campaign: Campaign) -> dict[str, JsonValue]:
    """Return the settings that the result depends on."""
    section = campaign.recipe.select
    # The plan may change the share from round to round, so its value stands beside the section.
    # The other two change how fast scores are computed, not what they are.
    exclude: dict[str, bool | set[str]] = {"labelled_share": True}
    if section.judge is not None:
        exclude["judge"] = {"concurrency"}
    if section.reward is not None:
        exclude["reward"] = {"batch_size"}
    config: dict[str, JsonValue] = {
        "section": section.model_dump(mode="json", exclude=exclude)
    }
    if (
        section.likelihood is not None
        or section.influence is not None
        or section.ranked_by
    ):
        config["max_length"] = campaign.recipe.train.max_length
    if campaign.recipe.generate.hints is not None:
        config["hint"] = campaign.recipe.generate.hints.template
    method = campaign.recipe.train.method
    if method in ("dpo", "rpo"):
        config["pairs"] = True
        if campaign.recipe.train.preference.labelled:
            config["labelled_pairs"] = True
    elif method == "kto":
        config["wrong"] = True
    if section.verifier_function:
        # Its name alone would let the work of an earlier version of the function be used again.
        config["verifier_function_code"] = function_digest(section.verifier_function)
    if section.reward is not None:
        # The same of another model under the same name.
        config["reward_model"] = model_version(
            section.reward.source, context.environment, context.scratch
        )
    return config


def _in_order(campaign: Campaign, samples: Sequence[Receipt]) -> list[Receipt]:
    """Return the shards by number.

    Raises:
        Corrupt: Shards are missing, come twice, or do not belong together.
    """
    shards = [(receipt, read_summary(receipt, GenerateSummary)) for receipt in samples]
    shards.sort(key=lambda shard: shard[1].shard)
    teacher = campaign.teacher_ref
    # A teacher's samples are drawn for whichever champion there is.
    champion = campaign.state.champion if teacher is None else ""
    expected = (campaign.next_round, champion, teacher or "")
    for receipt, summary in shards:
        drawn_for = (summary.round, summary.champion, summary.teacher)
        if drawn_for != expected:
            raise Corrupt(
                f"{receipt.ref} is of (round, champion, teacher) {drawn_for}; "
                f"select of this round needs {expected}"
            )
    numbers = [summary.shard for _, summary in shards]
    counts = sorted({summary.shards for _, summary in shards})
    # A missing shard would only be a smaller round, which nobody would notice.
    is_whole = len(counts) == 1 and numbers == list(range(counts[0]))
    if not is_whole:
        raise Corrupt(
            f"round {campaign.next_round}: got shards {numbers} of {counts}; "
            "all shards, each once, are needed"
        )
    return [receipt for receipt, _ in shards]


class _Selection:
    """Selection of one round.

    Rows pass by in blocks: of all rows only keys and counts are in memory.
    """

    def __init__(
        self,
        context: Context,
        campaign: Campaign,
        folder: Path,
        scratch: Path,
        verdicts: Mapping[str, bool],
    ) -> None:
        self._context = context
        self._campaign = campaign
        self._folder = folder
        self._scratch = scratch
        self._section = campaign.recipe.select
        train_split = fetch(context, campaign.prepared, split_file("train"))
        self._labelled = RowFile(train_split)
        # Keys of 64 bits: a million labelled rows take 60 MB.
        self._labelled_keys = frozenset(
            row_key(row.prompt, row.completion) for row in self._labelled
        )
        self._evaluation = evaluation_items(context, campaign.prepared)
        self._evaluation_ids = frozenset(prompt.id for prompt, _ in self._evaluation)
        self._audit_ids = audit_ids(context, campaign.prepared)
        self._seen = SeenCounts(self._audit_ids)
        self._hints = campaign.recipe.generate.hints
        self._pool = Pool()
        self._verdicts = verdicts
        self._marked = MarkedAnswers(verdicts)
        self._room = Room(context.threads, context.free_memory_bytes)

    def run(self, shards: list[Receipt], earlier: list[Receipt]) -> SelectSummary:
        """Write the files and return the summary.

        Args:
            shards: Receipts of generate, by shard.
            earlier: Selections of earlier rounds, the oldest first.
        """
        # Counted as they pass by: the samples are read once.
        blocks = self._marked.watch(self._seen.watch(self._blocks(shards)))
        samples, audit = collect(blocks, self._audit_ids, self._scratch / "pass-0")
        passed, account = self._filter(samples, audit)
        method = self._campaign.recipe.train.method
        worse = (
            worse_answers(self._folder / DROPPED) if method in ("dpo", "rpo") else None
        )
        prompts = write_accepted(self._campaign, passed, self._folder / ACCEPTED, worse)
        beside = self._beside_own_answers(worse)
        labelled_pairs = None if beside is None else beside.count_pairs()
        why_weak = reason_weak(self._section, account, labelled_pairs)
        # Without the file nothing can train on too little, whatever goes wrong later.
        labelled = self._labelled if beside is None else beside
        mix = self._write_mix(labelled, earlier) if why_weak is None else _MixCounts()
        num_wrong = None
        if method == "kto":
            num_wrong = write_wrong(
                self._context,
                self._campaign,
                self._folder,
                shards,
                earlier,
                evaluation_ids=self._evaluation_ids,
                labelled_keys=self._labelled_keys,
            )
        pool = self._write_pool(earlier)
        drawn = DrawnCounts.of(shards)
        return SelectSummary(
            round=self._campaign.next_round,
            shards=tuple(shard.ref for shard in shards),
            generated=account.given,
            accepted=account.accepted,
            acceptance=account.accepted / account.given if account.given else None,
            dropped=account.by_reason,
            filters=account.filters,
            prompts=self._seen.prompts,
            prompts_accepted=prompts.without_hint,
            pairs=prompts.pairs if worse is not None else None,
            labelled_pairs=labelled_pairs,
            wrong_rows=num_wrong,
            audit_samples=len(audit),
            distinct_share=self._seen.distinct_share,
            mean_answer_tokens=self._seen.mean_answer_tokens,
            tokens_sampled=drawn.tokens,
            finished_share=drawn.finished_share,
            why_weak=why_weak,
            labelled_rows=mix.labelled_rows,
            self_rows=mix.self_rows,
            older_left_out=mix.older_left_out,
            bias=mix.bias,
            votes=account.votes,
            audit=account.audit,
            people=self._marked.agreement(self._section, self._room),
            teaches_errors=account.audit.teaches_errors
            if account.audit is not None
            else (),
            why_blocked=self._noted(reason_blocked(account.audit)),
            why_unproved=self._noted(reason_unproved(account.audit)),
            hinted=self._hinted_counts(account, prompts.with_hint),
            too_hard=pool,
        )

    def _blocks(self, shards: list[Receipt]) -> Iterator[Block]:
        """Return all samples of the round, with a hint and without."""
        blocks = gather(self._context, shards, self._scratch)
        if self._hints is None:
            return blocks
        folder = self._scratch / "hinted"
        folder.mkdir()
        return self._pool.watch(with_hinted(blocks, self._context, shards, folder))

    def _filter(
        self, samples: ScoredSampleFile, audit: Sequence[ScoredSample]
    ) -> tuple[ScoredSampleFile, Account]:
        """Write `dropped.jsonl`; return (samples that passed all filters, account)."""
        with scorers_of(self._context, self._campaign, self._scratch) as scorers:
            settings = FilterSettings(
                section=self._section,
                folder=self._scratch,
                seed=self._campaign.recipe.seed,
                evaluation=self._evaluation,
                validation=validation_prompts(self._context, self._campaign.prepared),
                labelled_keys=self._labelled_keys,
                classes=Classes.of(self._labelled),
                scorers=scorers,
                audit=audit,
                people=self._verdicts if self._section.people is not None else None,
                room=self._room,
                hints=self._hints,
            )
            with (self._folder / DROPPED).open("wb") as rejected:
                return filter_all(samples, settings, rejected)

    def _write_pool(self, earlier: list[Receipt]) -> HintPool | None:
        """Write `too_hard.jsonl`; without hints write nothing and return None."""
        if self._hints is None:
            return None
        return self._pool.carry_on(
            self._context,
            earlier[-1] if earlier else None,
            self._campaign.next_round,
            self._folder,
            RowFile(self._folder / ACCEPTED),
        )

    def _hinted_counts(
        self, account: Account, prompts_accepted: int
    ) -> HintedCounts | None:
        hinted = account.hinted
        if hinted is None:
            return None
        return HintedCounts(
            prompts=len(self._pool.tried),
            generated=hinted.given,
            accepted=hinted.accepted,
            dropped=hinted.by_reason,
            filters=hinted.filters,
            prompts_accepted=prompts_accepted,
        )

    def _beside_own_answers(
        self, worse: Mapping[str, list[str]] | None
    ) -> BesideOwnAnswers | None:
        """Return the labelled rows with the model's own answers, if the recipe asks for them.

        Args:
            worse: Prompt id → wrong answers of this round; None where none are needed.
        """
        if worse is None or not self._campaign.recipe.train.preference.labelled:
            return None
        own = worse
        if not (self._section.verifier or self._section.judges_without_reference):
            # Nothing has called them right, so they are as good as any to be told from a label.
            own = own_answers(RowFile(self._folder / ACCEPTED))
        return BesideOwnAnswers(self._labelled, own, self._labelled_keys)

    def _write_mix(
        self, labelled: Iterable[TrainingRow], earlier: list[Receipt]
    ) -> _MixCounts:
        """Write `mix.jsonl` from labelled rows, earlier rounds and this one."""
        accepted = RowFile(self._folder / ACCEPTED)
        # The newest first: of rows that repeat each other, the newest stays.
        files = [
            fetch(self._context, receipt, ACCEPTED) for receipt in reversed(earlier)
        ]
        left_out = Counter[str]()
        older_rows = accumulate(
            RowFile(*files),
            accepted,
            evaluation_ids=self._evaluation_ids,
            labelled_keys=self._labelled_keys,
            left_out=left_out,
        )
        # A file, since `weigh` reads each group twice.
        older_path = self._scratch / "older.jsonl"
        num_older = write_rows(older_path, older_rows)
        older: Iterable[TrainingRow] = RowFile(older_path)
        newest: Iterable[TrainingRow] = accepted
        labelled_weights = attribute_shift.attributes(self._labelled)
        if self._section.balance_answers:
            older = attribute_shift.Balanced(older, labelled_weights)
            newest = attribute_shift.Balanced(accepted, labelled_weights)
        if self._section.unsafe_replace:
            labelled = []
            older = []
            num_older = 0
        # Only weights are set here: every row is in the mix, however small its share is.
        planned_share = self._campaign.state.plan.labelled_share
        mix = weigh(
            labelled,
            older,
            newest,
            labelled_share=None if self._section.union else planned_share,
            newest_share=self._section.newest_share,
        )
        num_rows = write_rows(self._folder / MIX, mix)
        num_self = num_older + sum(1 for _ in accepted)
        num_labelled = num_rows - num_self
        by_number = self._section.union or not num_labelled
        self._warn_of_few_labelled(
            num_labelled / num_rows if by_number else planned_share
        )
        return _MixCounts(
            labelled_rows=num_labelled,
            self_rows=num_self,
            older_left_out=dict(sorted(left_out.items())),
            bias=attribute_shift.distances(
                attribute_shift.attributes(newest), labelled_weights
            ),
        )

    def _noted(self, reason: str | None) -> str | None:
        """Return a reason, told as a note where there is one."""
        if reason is not None:
            self._context.progress.note(reason)
        return reason

    def _warn_of_few_labelled(self, share: float) -> None:
        """Note a labelled share from which on models have unlearned how people write."""
        if share < FEW_LABELLED:
            self._context.progress.note(
                f"labelled rows are {share:.0%} of what training draws; below {FEW_LABELLED:.0%} "
                "watch the signs of collapse, which block a candidate"
            )


@dataclass(frozen=True)
class _MixCounts:
    """Counts of a mix, none by default; see the fields of `SelectSummary`."""

    labelled_rows: int = 0
    self_rows: int = 0
    older_left_out: dict[str, int] = field(default_factory=dict)
    bias: dict[str, float] = field(default_factory=dict)
