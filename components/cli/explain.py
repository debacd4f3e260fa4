"""Why a row was kept or dropped, and where it taught: read from the receipts of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, JsonValue
from rich.console import Console
from rich.text import Text

from components.canonical import JsonObject
from components.cli.first_steps.samples import expected_answers, sample_id
from components.contracts import artifacts
from components.contracts.rows import prompt_id
from components.contracts.state import RoundRecord
from components.contracts.summaries import SelectSummary
from components.contracts.summaries.select import FilterCounts
from components.errors import UserError
from components.report.checks import filters_in_order
from components.report.views import RunView
from components.report.words import cut
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_receipt, read_summary

SHOWN_CHARACTERS = 600
_SPLITS = "splits/"
_LABELLED_SPLIT = "train"
"""Split whose rows are in every mix; the others measure, or are asked."""


class FilterDecision(BaseModel):
    """What one filter did with a sample."""

    filter: str
    decision: str
    """`passed`, `dropped` or `not reached`."""
    detail: str = ""
    """The filter's words."""


class Taught(BaseModel):
    """A mix that a row is in."""

    round: int
    weight: float
    """Frequency with which it is drawn, relative to the other rows of the mix."""
    verdict: str
    """Of the model that was trained on the mix; `not decided` as long as there is none."""


class RowStory(BaseModel):
    """One row: where it is from, what became of it, and where it taught."""

    row: str
    """Its id: of samples PROMPT-rROUND-NUMBER."""
    origin: str
    """`sample of round 2`, `labelled row`, `prompt of validation` or `rejected by prepare`."""
    fate: str
    """`accepted`, the reason it was dropped for, or what the split is for."""
    prompt: str
    answer: str
    expected: str = ""
    """The reference answer; empty where there is none."""
    filters: list[FilterDecision] = []
    scores: dict[str, JsonValue] = {}
    """Name → score, and other reasons why a sample may teach."""
    taught: list[Taught] = []


def explain(context: Context, view: RunView, query: str) -> list[RowStory]:
    """Return all rows of a run that a person may mean.

    Args:
        context: Store of the run.
        view: The run.
        query: Id of a sample, row or prompt, the whole text of a prompt, or the origin of a
            rejected row (`file.jsonl:12`).

    Raises:
        UserError: The run has no such row.
        Corrupt: A file is missing or damaged.
    """
    stories = [*_of_data(context, view, query), *_of_samples(context, view, query)]
    if not stories:
        raise UserError(
            f"run {view.run_id} has no row, sample or prompt {cut(query, 80)!r}; `samples` shows the "
            "ids of samples, and the whole text of a prompt finds it too"
        )
    ids = {story.row for story in stories}
    taught = _taught(context, view, ids)
    return [
        story.model_copy(update={"taught": taught.get(story.row, [])})
        for story in stories
    ]


def _of_data(context: Context, view: RunView, query: str) -> Iterator[RowStory]:
    """Yield labelled rows, prompts of splits and rejected rows."""
    if view.state is None:
        return
    prepared = read_receipt(context, view.state.prepared)
    for name in sorted(prepared.objects):
        if name.startswith(_SPLITS):
            split = Path(name).stem
            for row in _rows(context, prepared, name):
                if _is_meant(row, query):
                    yield _data_story(row, split)
    if artifacts.REJECTED not in prepared.objects:
        return
    for dropped in _rows(context, prepared, artifacts.REJECTED):
        row = dropped["row"]
        origin, _, _ = str(dropped.get("detail", "")).partition(": ")
        if query == origin or query in row.values() or _is_meant(row, query):
            yield RowStory(
                row=origin,
                origin="rejected by prepare",
                fate=str(dropped.get("reason", "")),
                prompt=_prompt(row)
                or json.dumps(row, ensure_ascii=False, sort_keys=True),
                answer=str(row.get("completion", "")),
                filters=[
                    FilterDecision(
                        filter=str(dropped.get("reason", "")),
                        decision="dropped",
                        detail=str(dropped.get("detail", "")),
                    )
                ],
            )


def _data_story(row: JsonObject, split: str) -> RowStory:
    is_row = "completion" in row
    reference = row.get("reference")
    expected = str(reference.get("answer", "")) if isinstance(reference, dict) else ""
    fate = (
        "in every mix" if split == _LABELLED_SPLIT else f"in {split}, and never taught"
    )
    if split == "unlabelled":
        fate = "asked in a round, and taught by accepted samples alone"
    return RowStory(
        row=str(row.get("id", "")),
        origin="labelled row" if is_row else f"prompt of {split}",
        fate=fate,
        prompt=_prompt(row),
        answer=str(row.get("completion", "")),
        expected=expected,
    )


def _of_samples(context: Context, view: RunView, query: str) -> Iterator[RowStory]:
    """Yield the samples of all rounds that were selected."""
    for select in _selections(context, view):
        summary = read_summary(select, SelectSummary)
        stories = list(_of_selection(context, select, summary, query))
        if not stories:
            continue
        expected = expected_answers(context, view, select)
        # By prompt, then by number: -10 comes after -9.
        stories.sort(key=lambda pair: (pair[1], len(pair[0].row), pair[0].row))
        for story, identity in stories:
            yield story.model_copy(update={"expected": expected.get(identity, "")})


def _of_selection(
    context: Context, select: Receipt, summary: SelectSummary, query: str
) -> Iterator[tuple[RowStory, str]]:
    """Yield (story, prompt id) of the samples of one round."""
    for row in _rows(context, select, artifacts.ACCEPTED):
        if _is_meant(row, query):
            provenance = row.get("provenance")
            yield _accepted(
                row, provenance if isinstance(provenance, dict) else {}, summary
            )
    for dropped in _rows(context, select, artifacts.DROPPED):
        row = dropped["row"]
        name = sample_id(row, summary.round)
        if _is_meant({**row, "id": name}, query):
            scores = row.get("scores")
            yield (
                RowStory(
                    row=name,
                    origin=f"sample of round {summary.round}",
                    fate=str(dropped["reason"]),
                    prompt=_prompt(row),
                    answer=str(row.get("text", "")),
                    filters=_decisions(
                        summary.filters,
                        str(dropped["reason"]),
                        str(dropped.get("detail", "")),
                    ),
                    scores=scores if isinstance(scores, dict) else {},
                ),
                str(row.get("prompt_id", "")),
            )


def _accepted(
    row: JsonObject, provenance: JsonObject, summary: SelectSummary
) -> tuple[RowStory, str]:
    reasons = ("scores", "vote_share", "pass_rate", "verdict", "hinted")
    story = RowStory(
        row=str(row["id"]),
        origin=f"sample of round {summary.round}",
        fate="accepted",
        prompt=_prompt(row),
        answer=str(row.get("completion", "")),
        filters=_decisions(summary.filters, "", ""),
        scores={name: provenance[name] for name in reasons if name in provenance},
    )
    return story, str(provenance.get("prompt_id", ""))


def _decisions(
    filters: dict[str, FilterCounts], reason: str, detail: str
) -> list[FilterDecision]:
    """Return what each filter did with a sample, in the order in which they worked.

    Args:
        filters: Filter → counts of the round.
        reason: Filter that dropped the sample; empty for an accepted one.
        detail: That filter's words.
    """
    names = filters_in_order(filters)
    if reason and reason not in filters:
        # A sample that was cut off, or without an answer, comes to no filter.
        first = FilterDecision(filter=reason, decision="dropped", detail=detail)
        unreached = [
            FilterDecision(filter=name, decision="not reached") for name in names
        ]
        return [first, *unreached]
    decisions: list[FilterDecision] = []
    decision = "passed"
    for name in names:
        if name == reason:
            decisions.append(
                FilterDecision(filter=name, decision="dropped", detail=detail)
            )
            decision = "not reached"
        else:
            decisions.append(FilterDecision(filter=name, decision=decision))
    return decisions


def _taught(context: Context, view: RunView, ids: set[str]) -> dict[str, list[Taught]]:
    """Return id of a row → the mixes that it is in."""
    verdicts = {} if view.state is None else _verdicts(view.state.history)
    taught: dict[str, list[Taught]] = {}
    # A weak round has samples, and no mix.
    for select in _selections(context, view):
        number = read_summary(select, SelectSummary).round
        verdict = verdicts.get(select.ref, "not decided")
        for row in _rows(context, select, artifacts.MIX):
            identity = str(row.get("id", ""))
            if identity in ids:
                weight = float(str(row.get("weight", 1.0)))
                entry = Taught(round=number, weight=weight, verdict=verdict)
                taught.setdefault(identity, []).append(entry)
    return taught


def _verdicts(history: tuple[RoundRecord, ...]) -> dict[str, str]:
    """Return ref of a mix → verdict of its round."""
    return {
        record.receipts["select"]: "no candidate" if record.weak else record.verdict
        for record in history
        if "select" in record.receipts
    }


def _selections(context: Context, view: RunView) -> Iterator[Receipt]:
    """Yield all receipts that hold samples or a mix: the first mix, then those of select in the
    order of their rounds, with one that is not decided yet."""
    refs = []
    if view.state is not None:
        refs += [record.receipts["select"] for record in view.state.history]
    refs += [task.last.receipt for task in view.tasks if task.last.step == "select"]
    for ref in dict.fromkeys(filter(None, refs)):
        yield view.receipts.get(ref) or read_receipt(context, ref)


def _rows(context: Context, receipt: Receipt, name: str) -> Iterator[JsonObject]:
    # As JSON and not as rows: a file may have millions of lines, of which few are meant.
    if name not in receipt.objects:
        return
    with fetch(context, receipt, name).open(encoding="utf-8") as file:
        for line in file:
            row: JsonObject = json.loads(line)
            yield row


def _is_meant(row: JsonObject, query: str) -> bool:
    prompt = _prompt(row)
    identity = row.get("prompt_id")
    provenance = row.get("provenance")
    if identity is None and isinstance(provenance, dict):
        identity = provenance.get("prompt_id")
    if identity is None and "completion" in row:
        # Labelled rows are named by their own id; their prompt has one all the same.
        identity = prompt_id(prompt)
    return query in (row.get("id"), identity, prompt)


def _prompt(row: JsonObject) -> str:
    """Return the question of a row, of a prompt or of a sample with its prompt."""
    # In a prompt `text` is the question, in a sample it is the answer.
    return str(row.get("prompt", "" if "prompt_id" in row else row.get("text", "")))


def print_stories(console: Console, stories: list[RowStory]) -> None:
    """Print rows one below the other, for terminals of any width."""
    for number, story in enumerate(stories):
        if number:
            console.print()
        style = "green" if story.fate in ("accepted", "in every mix") else "yellow"
        title = Text.assemble(
            (story.row, "bold"), f"  {story.origin}: ", (story.fate, style)
        )
        console.print(title)
        scores = ", ".join(
            f"{name} {_short(value)}" for name, value in story.scores.items()
        )
        for name, text in (
            ("prompt", story.prompt),
            ("answer", story.answer),
            ("expected", story.expected),
            ("scores", scores),
        ):
            if text:
                console.print(_line(name, text))
        for decision in story.filters:
            detail = f": {decision.detail}" if decision.detail else ""
            console.print(_line(decision.filter, f"{decision.decision}{detail}"))
        for taught in story.taught:
            text = f"weight {taught.weight:.3g} in the mix of round {taught.round} ({taught.verdict})"
            console.print(_line("taught", text))
        if not story.taught:
            console.print(_line("taught", "in no mix"))


def _line(name: str, text: str) -> Text:
    return Text.assemble(
        (f"  {cut(name, 20):<14} ", "dim"), cut(text, SHOWN_CHARACTERS)
    )


def _short(value: JsonValue) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else json.dumps(value, ensure_ascii=False)
    )
