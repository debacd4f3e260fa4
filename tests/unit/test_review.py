"""People as the measure of quality: what they are given to mark, what comes back, and what a round
makes of it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from components.cli.main import app
from components.cli.review import export_answers, import_verdicts
from components.contracts.recipe_file import parse_recipe
from components.contracts.reviews import ReviewRow, answer_id
from components.contracts.rows import Dropped, TrainingRow, read_rows
from components.contracts.summaries import SelectSummary
from components.errors import UserError
from components.generate import step as generate
from components.report.checks import people_line
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_summary
from components.runtime.reviews import read_batches
from components.select import step as select
from components.select.people import agreement_of
from tests.unit.preparing import prepare
from tests.unit.taught import first_round

HOSTILE = "</script><img src=x onerror=alert(1)> is"


def recipe(folder: Path) -> dict[str, Any]:
    sources = []
    for split in ("train", "unlabelled", "dev", "validation", "test"):
        path = folder / f"{split}.jsonl"
        rows = [
            json.dumps({"prompt": f"{split} {HOSTILE} {number}", "completion": "5"})
            for number in range(8)
        ]
        path.write_text("\n".join(rows), encoding="utf-8")
        sources.append({"uri": str(path), "split": split})
    return {
        "name": "reviewed",
        "model": {"scratch": {"hidden_size": 16, "num_layers": 1, "tokenizer": "byte"}},
        "data": {"sources": sources},
        "generate": {
            "prompts_per_round": 8,
            "samples_per_prompt": 3,
            "max_new_tokens": 4,
        },
        "select": {
            "people": {"min_verdicts": 8},
            "verifier": False,
            "require_finished": False,
            "max_length_ratio": 100,
            "minhash_threshold": 1.0,
            "min_accepted": 1,
        },
        "decide": {"goal": {"threshold": 0.9}, "max_rounds": 1, "alpha": 0.5},
    }


@pytest.fixture
def waiting(context: Context, tmp_path: Path) -> tuple[str, str, Receipt]:
    """(run, URI of its state, samples) of a round whose answers are drawn."""
    document = recipe(tmp_path)
    state = first_round(context, prepare(context, document))
    shard = generate.run(generate.GenerateInputs(state, 0), context)
    return parse_recipe(document).run_id, state, shard


def write_verdicts(
    path: Path, rows: list[ReviewRow], verdicts: list[bool | None]
) -> Path:
    lines = [
        json.dumps({"id": row.id, "right": right})
        for row, right in zip(rows, verdicts, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_round_waits_for_people_and_teaches_what_they_call_right(
    context: Context, tmp_path: Path, waiting: tuple[str, str, Receipt]
) -> None:
    run_id, state, shard = waiting
    with pytest.raises(UserError, match=rf"round 1 waits for people: 0 of .* {run_id}"):
        select.run(select.SelectInputs(state, (shard,)), context)
    exported = export_answers(context, run_id, None, 200, tmp_path / "review")
    rows = list(read_rows(tmp_path / "review" / "review.jsonl", ReviewRow))
    assert exported.round == 1
    assert 10 < exported.answers == exported.written == len(rows) <= 24
    assert sum(row.samples for row in rows) == 24
    assert {row.reference for row in rows} == {"5"}

    # Too few: the round still waits. The second import overrules the first.
    few = write_verdicts(tmp_path / "few.jsonl", rows[:4], [True, True, False, None])
    assert import_verdicts(context, run_id, None, few).without == 1
    with pytest.raises(UserError, match="3 of its"):
        select.run(select.SelectInputs(state, (shard,)), context)
    verdicts: list[bool | None] = [
        False,
        True,
        True,
        *(number % 2 == 0 for number in range(6)),
    ]
    more = write_verdicts(tmp_path / "more.jsonl", rows[:9], verdicts)
    imported = import_verdicts(context, run_id, None, more)
    assert imported.marked == 9
    assert import_verdicts(context, run_id, 1, more) == imported
    assert len(read_batches(context, run_id, 1)) == 2, (
        "the same file once more adds nothing"
    )

    receipt = select.run(select.SelectInputs(state, (shard,)), context)
    right = {row.id for row, verdict in zip(rows, verdicts, strict=False) if verdict}
    accepted = list(read_rows(fetch(context, receipt, "accepted.jsonl"), TrainingRow))
    assert accepted
    taught = {
        answer_id(str(row.provenance["prompt_id"]), row.completion) for row in accepted
    }
    assert taught == right
    dropped = list(read_rows(fetch(context, receipt, "dropped.jsonl"), Dropped))
    assert {row.reason for row in dropped} >= {"people", "unmarked"}
    summary = read_summary(receipt, SelectSummary)
    assert summary.people == imported.agreement
    assert summary.people is not None
    assert (summary.people.answers, summary.people.right) == (9, 5)
    assert people_line(summary).startswith(
        "People marked 9 answers, 5 of them right; the automatic"
    )
    # Other verdicts are another selection.
    write_verdicts(more, rows[:1], [True])
    import_verdicts(context, run_id, 1, more)
    assert select.run(select.SelectInputs(state, (shard,)), context).key != receipt.key


def test_the_page_shows_text_and_runs_none_of_it(
    context: Context, tmp_path: Path, waiting: tuple[str, str, Receipt]
) -> None:
    run_id, _, _ = waiting
    arguments = [
        "review",
        "export",
        run_id,
        "--store",
        context.store.root,
        "--limit",
        "5",
    ]
    done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "round 1: 5 of" in done.output
    page = (tmp_path / "out" / "review.html").read_text(encoding="utf-8")
    assert page.count("<article ") == 5
    assert page.count("&lt;/script&gt;&lt;img") == 5
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 1
    assert "http" not in page.replace("http-equiv", "")


UNUSABLE = {
    '{"id": "%s", "right": "yes"}': ":1: no verdict",
    '{"id": "%s", "correct": true}': ":1: no verdict",
    '{"id": "0123456789abcdef", "right": true}': "is no answer of round 1",
    '{"id": "%s", "right": true}\n{"id": "%s", "right": false}': ":2: .* two verdicts",
    '{"id": "%s"}': "no row has a verdict",
}


def test_verdicts_that_cannot_be_used_are_named(
    context: Context, tmp_path: Path, waiting: tuple[str, str, Receipt]
) -> None:
    run_id, _, _ = waiting
    export_answers(context, run_id, None, 1, tmp_path)
    [row] = read_rows(tmp_path / "review.jsonl", ReviewRow)
    file = tmp_path / "marked.jsonl"
    for line, message in UNUSABLE.items():
        file.write_text(line.replace("%s", row.id), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            import_verdicts(context, run_id, None, file)
    with pytest.raises(
        UserError, match="round 7 has no answers; rounds with answers: 1"
    ):
        import_verdicts(context, run_id, 7, file)
    assert read_batches(context, run_id, 1) == []


def test_the_agreement_is_cohens_kappa() -> None:
    generator = random.Random(1)
    for bias in (0.1, 0.5, 0.9):
        people = [generator.random() < bias for _ in range(40)]
        automatic = [one if generator.random() < 0.7 else not one for one in people]
        agreement = agreement_of(people, automatic)
        assert agreement.kappa == pytest.approx(cohen_kappa_score(people, automatic))
        same = sum(one == other for one, other in zip(people, automatic, strict=True))
        assert agreement.accuracy == same / 40
    assert agreement_of([True], [True]).kappa is None
