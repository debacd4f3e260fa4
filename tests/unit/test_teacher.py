"""A teacher: another model that answers instead of the champion, from the recipe to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.cli.verify import check_state
from components.contracts.recipe_file import parse_recipe
from components.contracts.rows import Sample, TrainingRow, read_rows
from components.contracts.summaries import GenerateSummary, StartSummary, TeacherSummary
from components.errors import UserError
from components.generate import step as generate
from components.generate.shard_plan import plan_shard
from components.report.runs import load_run
from components.report.words import data_sentences
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import (
    Receipt,
    fetch,
    read_receipt,
    read_summary,
)
from components.select import step as select
from tests.unit.chat_models import save_chat_model
from tests.unit.preparing import prepare
from tests.unit.taught import first_round
from tests.unit.tiny import save_tiny

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "distill.yaml"
NUM_PROMPTS = 12
SMALL = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}


def recipe(folder: Path, **generate: Any) -> dict[str, Any]:
    """The recipe `distill` as it is shipped, with a small student, little data and `generate` set."""
    document: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    document["model"]["scratch"] |= SMALL
    document["data"]["sources"] = []
    for split in ("train", "unlabelled", "dev", "validation", "test"):
        path = folder / f"{split}.jsonl"
        rows = [
            {"prompt": f"{split} {number} is", "completion": str(number)}
            for number in range(NUM_PROMPTS)
        ]
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        document["data"]["sources"].append({"uri": str(path), "split": split})
    settings = {
        "samples_per_prompt": 2,
        "temperature": 0.7,
        "max_new_tokens": 8,
        **generate,
    }
    document["generate"] |= settings
    document["select"] |= {"require_finished": False, "min_accepted": 1}
    document["train"]["num_peers"] = 2
    document["decide"]["alpha"] = 0.5
    return document


def texts_of(context: Context, shard: Receipt) -> dict[tuple[str, int], str]:
    samples = read_rows(fetch(context, shard, "samples.jsonl"), Sample)
    return {(sample.prompt_id, sample.index): sample.text for sample in samples}


def test_a_teacher_with_another_tokenizer_answers_as_it_does_as_a_champion(
    context: Context, tmp_path: Path
) -> None:
    folder = str(save_chat_model(tmp_path / "chat"))
    taught = recipe(tmp_path, teacher={"source": folder, "system_prompt": "Be brief."})
    start = prepare(context, taught)
    about = read_summary(start, StartSummary).teacher
    assert about is not None
    assert about.source == folder
    teacher = read_receipt(context, about.receipt)
    assert read_summary(teacher, TeacherSummary).parameters == about.parameters > 10_000

    state = first_round(context, start)
    shard = generate.run(generate.GenerateInputs(state, 0), context)
    summary = read_summary(shard, GenerateSummary)
    assert (summary.champion, summary.teacher) == ("", teacher.ref)
    assert summary.chat_template is not None, "the champion has no template"
    # The same model as the champion of a campaign of its own says the same, word for word.
    alone = recipe(tmp_path, teacher=None)
    alone["model"] = {"source": folder, "system_prompt": "Be brief."}
    alone["train"]["num_peers"] = 1
    own = first_round(context, prepare(context, alone))
    said = texts_of(context, generate.run(generate.GenerateInputs(own, 0), context))
    assert len(said) == 2 * NUM_PROMPTS
    assert texts_of(context, shard) == said

    # Rows say who wrote them, and the receipts of the run are whole.
    selected = select.run(select.SelectInputs(state, (shard,)), context)
    accepted = list(read_rows(fetch(context, selected, "accepted.jsonl"), TrainingRow))
    assert {row.provenance["teacher"] for row in accepted} == {teacher.ref}
    assert check_state(context, shard.ref).damaged == []
    view = load_run(context, parse_recipe(taught).run_id)
    [sentence] = [one for one in data_sentences(view) if "teacher" in one]
    assert sentence.startswith(
        f"answers are written by a teacher, {folder} ({about.parameters:,} "
    )


def test_other_files_under_the_name_of_a_teacher_are_another_teacher_and_no_other_data(
    context: Context, tmp_path: Path
) -> None:
    folder = save_chat_model(tmp_path / "chat")
    taught = recipe(tmp_path, teacher={"source": str(folder)})
    first = prepare(context, taught)
    save_chat_model(folder, initializer_range=0.2)
    second = prepare(context, taught)
    assert first.inputs["teacher"] != second.inputs["teacher"]
    assert first.inputs["prepare"] == second.inputs["prepare"]
    keys = [
        plan_shard(context, load_campaign(context, first_round(context, start)), 0).key
        for start in (first, second)
    ]
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no weights", "chat.*weights"),
        (
            "few positions",
            r"max_new_tokens: the longest prompt .* 16 positions of model .*chat",
        ),
        (
            "no release",
            r"generate\.teacher\.source release://nobody: nothing was released",
        ),
    ],
)
def test_a_teacher_that_cannot_answer_is_refused_before_anything_is_sampled(
    context: Context, tmp_path: Path, fault: str, message: str
) -> None:
    folder = save_chat_model(tmp_path / "chat")
    source = str(folder)
    if fault == "no weights":
        (folder / "model.safetensors").unlink()
    elif fault == "few positions":
        save_tiny(folder, "gpt2", tokenizer="byte", max_length=16)
    else:
        source = "release://nobody"
    with pytest.raises(UserError, match=message):
        prepare(context, recipe(tmp_path, teacher={"source": source}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": {"source": "scratch"}}, "nothing to teach"),
        (
            {
                "teacher": {"source": "/a"},
                "engine": "openai",
                "endpoint": {"model": "m"},
            },
            "leave out one of them",
        ),
    ],
)
def test_a_recipe_whose_teacher_cannot_be_says_so(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        parse_recipe(recipe(tmp_path, **settings))
