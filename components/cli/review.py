"""Answers of a round for people to mark, and the verdicts that come back."""

from __future__ import annotations

import random
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.canonical import derived_seed
from components.cli.stores import unknown_run
from components.contracts.artifacts import PROMPTS, SAMPLES
from components.contracts.reviews import ReviewRow, answer_id
from components.contracts.rows import Prompt, Sample, read_rows, write_rows
from components.contracts.summaries.select import Agreement
from components.errors import UserError
from components.report.checks import agreement_text
from components.report.runs import load_run
from components.report.views import RunView
from components.report.words import cut
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_receipt, receipt_uri
from components.runtime.reviews import add_verdicts, read_batches, verdicts_in
from components.select.people import agreement_of, automatic_verdicts
from components.select.scored_samples import ScoredSample, make_scored_samples
from components.verifiers import Room, reference_answer

PAGE = "review.html"
ROWS = "review.jsonl"
MAX_SHOWN = 4_000
"""Characters of a prompt or an answer on the page; the file has all."""


class Exported(BaseModel):
    """The outcome of an export."""

    model_config = ConfigDict(frozen=True)
    run_id: str
    round: int
    answers: int
    """Different answers of the round."""
    written: int


class Imported(BaseModel):
    """The outcome of an import."""

    model_config = ConfigDict(frozen=True)
    run_id: str
    round: int
    verdicts: int
    """Verdicts in the file."""
    without: int
    """Rows of the file without one."""
    marked: int
    """Answers of the round that are marked now, by all imports."""
    agreement: Agreement | None
    """Over all of these; None without any."""

    @property
    def in_words(self) -> str:
        """The outcome as a person reads it."""
        text = f"round {self.round}: {self.verdicts} verdicts stored"
        if self.without:
            text += f", {self.without} rows have none"
        if self.agreement is not None:
            text += f"; {agreement_text(self.agreement)}"
        return f"{text}; run the recipe again where a round waits for them"


def export_answers(
    context: Context, run_id: str, number: int | None, limit: int, folder: Path
) -> Exported:
    """Write `review.html` and `review.jsonl` of a round's answers.

    Args:
        context: Store of the run.
        run_id: The run.
        number: The round; None: the newest with answers.
        limit: Answers at most, drawn by lot.
        folder: Gets the files.

    Raises:
        UserError: There is no such run or round, or the folder cannot be written.
    """
    campaign, number, shards = _round_of(context, run_id, number)
    rows = _rows(context, campaign, run_id, number, shards)
    chosen = rows
    if len(rows) > limit:
        # By lot: an agreement measured on the first prompts would say nothing of the others.
        seed = derived_seed(campaign.recipe.seed, "review", number)
        indices = sorted(random.Random(seed).sample(range(len(rows)), limit))
        chosen = [rows[index] for index in indices]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder / ROWS, chosen)
        (folder / PAGE).write_text(page_of(run_id, number, chosen), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    return Exported(run_id=run_id, round=number, answers=len(rows), written=len(chosen))


def import_verdicts(
    context: Context, run_id: str, number: int | None, file: Path
) -> Imported:
    """Store the verdicts of a file, and say how far the automatic measure agrees.

    Args:
        context: Store of the run.
        run_id: The run.
        number: The round; None: the newest with answers.
        file: JSON Lines with `id` and `right`, as the page saves them, or `review.jsonl` filled in.

    Raises:
        UserError: There is no such run or round, or the file is none of its answers.
    """
    campaign, number, shards = _round_of(context, run_id, number)
    rows = {row.id: row for row in _rows(context, campaign, run_id, number, shards)}
    marked = _read(file, rows, number)
    verdicts = [row for row in marked if row.right is not None]
    if not verdicts:
        raise UserError(f"{file}: no row has a verdict (`right`: true or false)")
    add_verdicts(context, run_id, number, verdicts)
    people = verdicts_in(context, read_batches(context, run_id, number))
    # Verdicts on answers that were drawn before and not again count no more.
    marked_ids = [identity for identity in people if identity in rows]
    automatic = [bool(rows[identity].automatic) for identity in marked_ids]
    agreement = agreement_of([people[identity] for identity in marked_ids], automatic)
    return Imported(
        run_id=run_id,
        round=number,
        verdicts=len(verdicts),
        without=len(marked) - len(verdicts),
        marked=len(marked_ids),
        agreement=agreement,
    )


def _round_of(
    context: Context, run_id: str, number: int | None
) -> tuple[Campaign, int, list[Receipt]]:
    """Return (campaign, number, generate receipts) of a round."""
    view = load_run(context, run_id)
    if not view.tasks:
        raise unknown_run(context, run_id)
    refs_by_round = _answers_by_round(view)
    if not refs_by_round:
        raise UserError(f"{run_id}: no round has answers yet")
    if number is None:
        number = max(refs_by_round)
    if number not in refs_by_round:
        rounds = ", ".join(map(str, sorted(refs_by_round)))
        raise UserError(
            f"{run_id}: round {number} has no answers; rounds with answers: {rounds}"
        )
    state = read_receipt(context, view.state_ref)
    campaign = load_campaign(context, receipt_uri(context, state))
    return (
        campaign,
        number,
        [read_receipt(context, ref) for ref in refs_by_round[number]],
    )


def _answers_by_round(view: RunView) -> dict[int, list[str]]:
    refs: dict[int, list[str]] = {}
    for task in view.tasks:
        if task.last.step == "generate" and task.last.receipt:
            refs.setdefault(task.last.round, []).append(task.last.receipt)
    return refs


def _rows(
    context: Context,
    campaign: Campaign,
    run_id: str,
    number: int,
    shards: list[Receipt],
) -> list[ReviewRow]:
    """Return the different answers of a round, with what people and the recipe say of them."""
    people = verdicts_in(context, read_batches(context, run_id, number))
    first: dict[str, ScoredSample] = {}
    counts: dict[str, int] = {}
    for shard in shards:
        prompt_rows = read_rows(fetch(context, shard, PROMPTS), Prompt)
        prompts = {prompt.id: prompt for prompt in prompt_rows}
        samples = read_rows(fetch(context, shard, SAMPLES), Sample)
        for scored in make_scored_samples(prompts, samples):
            identity = answer_id(scored.prompt.id, scored.sample.text)
            first.setdefault(identity, scored)
            counts[identity] = counts.get(identity, 0) + 1
    room = Room(context.threads, context.free_memory_bytes)
    automatic = automatic_verdicts(campaign.written.select, list(first.values()), room)
    return [
        ReviewRow(
            id=identity,
            right=people.get(identity),
            prompt=scored.prompt.text,
            answer=scored.sample.text,
            reference=reference_answer(scored.prompt)
            if scored.prompt.reference
            else "",
            automatic=verdict,
            samples=counts[identity],
        )
        for (identity, scored), verdict in zip(first.items(), automatic, strict=True)
    ]


def _read(file: Path, answers: dict[str, ReviewRow], number: int) -> list[ReviewRow]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    rows: dict[str, ReviewRow] = {}
    for line_number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = ReviewRow.model_validate_json(line, strict=True)
        except ValidationError as error:
            problem = error.errors()[0]
            field_path = ".".join(map(str, problem["loc"]))
            raise UserError(
                f"{file}:{line_number}: no verdict ({field_path} {problem['msg']}); a line is "
                '{"id": "…", "right": true}'
            ) from None
        if row.id not in answers:
            short_id = cut(row.id, 40)
            raise UserError(
                f"{file}:{line_number}: {short_id} is no answer of round {number}"
            )
        earlier = rows.get(row.id)
        if earlier is not None and earlier.right != row.right:
            raise UserError(
                f"{file}:{line_number}: {row.id} comes twice, with two verdicts"
            )
        rows[row.id] = row
    return list(rows.values())


def page_of(run_id: str, number: int, rows: list[ReviewRow]) -> str:
    """Return the page. All text from models and data is escaped."""
    from components.report.page import templates_in

    environment = templates_in(Path(__file__).parent)
    environment.filters["cut"] = cut
    template = environment.get_template(PAGE)
    return template.render(run_id=run_id, number=number, rows=rows, max_shown=MAX_SHOWN)
