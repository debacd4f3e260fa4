"""`explain` tells of any row of a run what became of it, and where it taught."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from components.cli.explain import FilterDecision, RowStory, explain, print_stories
from components.contracts.rows import Dropped, TrainingRow, read_rows
from components.errors import UserError
from components.report.runs import load_run
from components.runtime.context import Context
from components.runtime.receipts import fetch
from components.select.step import SelectInputs, run
from tests.unit.crafted import ask, decided, generated, prepare, recipe_of

SUM = ask("3+4=", "7")
OTHER = ask("5+5=", "10")
MEASURED = ask("9+9=", "18")
LABELLED = TrainingRow(
    id="labelled-1", prompt="1+0=", completion="1", source="labelled", round=0
)
REJECTED = Dropped(
    reason="duplicate",
    detail="rows.jsonl:12: twice",
    row={"prompt": "1+0=", "completion": "1"},
)


def test_each_row_of_a_run_is_explained(context: Context) -> None:
    recipe = recipe_of(select={"min_accepted": 1})
    start = prepare(
        context, recipe, train=[LABELLED], validation=[MEASURED], rejected=[REJECTED]
    )
    texts = {SUM.text: ["7", "7", "8"], OTHER.text: ["10", "11", "cut…"]}
    samples = generated(context, [SUM, OTHER], texts)
    selected = run(SelectInputs(decided(context, start), (samples,)), context)
    view = load_run(context, "crafted-run")

    def only(wanted: str) -> RowStory:
        [story] = explain(context, view, wanted)
        return story

    accepted = only(f"{SUM.id}-r1-0")
    assert (accepted.fate, accepted.prompt, accepted.answer) == (
        "accepted",
        "3+4=",
        "7",
    )
    assert {decision.decision for decision in accepted.filters} == {"passed"}
    assert accepted.scores["verdict"] == "exact"
    [taught] = accepted.taught
    mix = {
        row.id: row
        for row in read_rows(fetch(context, selected, "mix.jsonl"), TrainingRow)
    }
    assert (taught.round, taught.weight) == (1, mix[accepted.row].weight)
    assert taught.verdict == "not decided"

    again = only(f"{SUM.id}-r1-1")
    by_filter = {decision.filter: decision for decision in again.filters}
    assert (again.fate, by_filter["verifier"].decision) == ("duplicate", "passed")
    assert by_filter["duplicate"].decision == "dropped"
    wrong = only(f"{OTHER.id}-r1-1")
    dropped = next(one for one in wrong.filters if one.decision == "dropped")
    # Its own words, and nothing that comes after it.
    [stored] = [
        row
        for row in read_rows(fetch(context, selected, "dropped.jsonl"), Dropped)
        if row.row["text"] == "11"
    ]
    assert dropped == FilterDecision(
        filter="verifier", decision="dropped", detail=stored.detail
    )
    position = wrong.filters.index(dropped)
    assert {one.decision for one in wrong.filters[:position]} <= {"passed"}
    assert {one.decision for one in wrong.filters[position + 1 :]} <= {"not reached"}
    assert wrong.taught == []
    cut_off = only(f"{OTHER.id}-r1-2")
    assert sum(one.decision == "dropped" for one in cut_off.filters) == 1

    # A prompt's id or its text means all its samples.
    for name in (SUM.id, SUM.text):
        assert [story.row for story in explain(context, view, name)] == [
            f"{SUM.id}-r1-{number}" for number in (0, 1, 2)
        ]
    stories = explain(context, view, MEASURED.id)
    assert {story.origin for story in stories} == {
        "prompt of dev_prompts",
        "prompt of validation",
    }
    assert all("never taught" in story.fate for story in stories)
    labelled = only("labelled-1")
    assert (labelled.origin, labelled.fate) == ("labelled row", "in every mix")
    assert [one.round for one in labelled.taught] == [1]
    rejected = only("rows.jsonl:12")
    assert (rejected.origin, rejected.fate) == ("rejected by prepare", "duplicate")
    assert {story.row for story in explain(context, view, "1+0=")} == {
        "labelled-1",
        "rows.jsonl:12",
    }
    with pytest.raises(
        UserError, match="has no row, sample or prompt 'nothing'; `samples`"
    ):
        explain(context, view, "nothing")
    shown = io.StringIO()
    print_stories(Console(file=shown, width=60), [accepted, wrong])
    assert "in the mix of round 1 (not decided)" in " ".join(shown.getvalue().split())
    assert "in no mix" in shown.getvalue()
