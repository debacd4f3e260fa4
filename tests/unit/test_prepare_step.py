"""prepare: what a new campaign begins with, over a real folder store and a tiny base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.contracts.rows import Dropped, Prompt, TrainingRow, prompt_id, read_rows
from components.contracts.state import base_plan
from components.contracts.summaries import SelectSummary, StartSummary
from components.errors import UserError
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.entrypoints import base_of, mix_of
from components.runtime.receipts import fetch, fetch_folder, read_summary, receipt_uri
from tests.unit.chat_models import CHAT, chat_tokenizer, save_chat_model
from tests.unit.preparing import RECIPE, changed, data_of, prepare, with_file


def test_a_new_campaign_has_recipe_state_base_and_splits(context: Context) -> None:
    receipt = prepare(context)
    counts = read_summary(receipt, StartSummary).counts
    evaluated = {"validation": 12, "test": 12, "vault": 0, "audit": 0, "retention": 0}
    assert counts == {
        "dev": 7,
        "dev_prompts": 8,
        "train": 39,
        "unlabelled": 20,
        **evaluated,
    }
    for name, kind in (
        ("train", TrainingRow),
        ("dev", TrainingRow),
        ("dev_prompts", Prompt),
        ("unlabelled", Prompt),
        ("validation", Prompt),
        ("test", Prompt),
    ):
        assert (
            len(
                list(
                    read_rows(
                        fetch(
                            context, data_of(context, receipt), f"splits/{name}.jsonl"
                        ),
                        kind,
                    )
                )
            )
            == counts[name]
        )
    base = fetch_folder(context, data_of(context, receipt), "model")
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {
        path.name for path in base.iterdir()
    }
    assert read_summary(receipt, StartSummary).parameters > 1000
    assert read_summary(receipt, StartSummary).supervised is True
    assert base_of(context, receipt) == data_of(context, receipt)
    campaign = load_campaign(context, receipt_uri(context, receipt))
    assert campaign.next_round == 0
    assert campaign.state.plan.level == 4
    assert (
        campaign.recipe.train.first.learning_rate == campaign.state.plan.learning_rate
    )
    stored = json.loads(
        context.store.get_bytes(f"runs/{campaign.recipe.run_id}/recipe.json")
    )
    assert stored == campaign.recipe.model_dump(mode="json")


def test_the_same_recipe_is_the_same_receipt_and_another_seed_another(
    context: Context,
) -> None:
    first = prepare(context)
    assert prepare(context).digest == first.digest
    other = prepare(context, changed(seed=4))
    assert data_of(context, other).ref != data_of(context, first).ref


def test_data_and_base_are_made_anew_only_for_what_they_depend_on(
    context: Context,
) -> None:
    first = prepare(context)
    other_goal = prepare(
        context, changed(decide={"goal": {"threshold": 0.5}}, train={"batch_size": 8})
    )
    assert other_goal.ref != first.ref
    assert data_of(context, other_goal) == data_of(context, first)
    bigger = changed(model={"scratch": {**RECIPE["model"]["scratch"], "num_layers": 2}})
    assert data_of(context, prepare(context, bigger)).ref != data_of(context, first).ref
    peers = data_of(context, prepare(context, changed(train={"num_peers": 2})))
    assert {"model/config.json", "peer-1/config.json"} <= peers.objects.keys()


def test_numbers_that_come_as_floats_are_the_same_recipe(context: Context) -> None:
    floats = json.loads(json.dumps(RECIPE), parse_int=float)
    assert prepare(context, floats).ref == prepare(context).ref


def test_a_ladder_without_dev_prompts_is_refused(context: Context) -> None:
    tasks = RECIPE["data"]["tasks"]
    for number, missing in ((0, "4, 5, 6"), (2, "4")):
        recipe = changed(data={"tasks": [{**tasks[0], "dev": number}]})
        message = rf"^data.tasks.dev: no dev prompt has length {missing}, .* at least 3"
        with pytest.raises(UserError, match=message):
            prepare(context, recipe)


def test_a_campaign_without_dev_prompts_is_told_once_that_the_plan_is_made_without_answers(
    context: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    numbers = range(1000, 1100)
    path.write_text(
        "".join(f'{{"prompt": "{n}", "completion": "{n}"}}\n' for n in numbers)
    )
    fractions = {
        "train": 0.4,
        "unlabelled": 0.3,
        "dev": 0,
        "validation": 0.2,
        "test": 0.1,
    }
    recipe = changed(
        data={"sources": [{"uri": f"file://{path}"}], "fractions": fractions},
        decide={"goal": {"threshold": 0.9}},
        select={"min_accepted": 5},
    )
    counts = read_summary(prepare(context, recipe), StartSummary).counts
    assert (counts["dev"], counts["dev_prompts"]) == (0, 0)
    assert (
        capsys.readouterr().err.count(
            "no dev prompts: the plan of a round is made without"
        )
        == 1
    )


def test_labelled_rows_are_taught_and_rejected_rows_kept_with_their_reason(
    context: Context, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "12", "completion": "21"}\nnonsense\n')
    receipt = prepare(context, with_file(path))
    data = data_of(context, receipt)
    rows = list(read_rows(fetch(context, data, "splits/train.jsonl"), TrainingRow))
    assert any(
        (row.id.startswith(prompt_id("12")), row.completion) == (True, "21")
        for row in rows
    )
    assert len({row.id for row in rows}) == len(rows)
    assert read_summary(receipt, StartSummary).rejected == {"not_json": 1}
    (dropped,) = read_rows(fetch(context, data, "rejected.jsonl"), Dropped)
    assert "rows.jsonl, line 2" in dropped.detail
    assert dropped.row == {"text": "nonsense\n"}


def test_an_edited_data_file_is_new_work(context: Context, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "12", "completion": "21"}\n')
    first = prepare(context, with_file(path))
    path.write_text('{"prompt": "13", "completion": "31"}\n')
    assert (
        data_of(context, prepare(context, with_file(path))).ref
        != data_of(context, first).ref
    )


def test_a_pattern_is_nothing_to_teach(context: Context, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="completion is a pattern"):
        prepare(context, with_file(tmp_path / "rows.jsonl", verifier="regex"))


def test_a_missing_data_file_is_an_error_that_names_it(
    context: Context, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"gone.jsonl: no such file"):
        prepare(context, with_file(tmp_path / "gone.jsonl"))


def test_the_first_mix_has_the_form_of_every_mix_and_all_labelled_rows(
    context: Context,
) -> None:
    start = prepare(context)
    prepared = load_campaign(context, receipt_uri(context, start)).prepared
    mix = mix_of(context, start)
    labelled = prepared.objects["splits/train.jsonl"]
    assert mix.objects["mix.jsonl"] == labelled
    assert {name: ref.size for name, ref in mix.objects.items()} == {
        "mix.jsonl": labelled.size,
        "accepted.jsonl": 0,
        "dropped.jsonl": 0,
    }
    summary = read_summary(mix, SelectSummary)
    assert (summary.round, summary.generated, summary.self_rows) == (0, 0, 0)
    assert summary.labelled_rows == read_summary(start, StartSummary).counts["train"]


def test_what_the_first_training_does_not_depend_on_leaves_its_mix_as_it_is(
    context: Context,
) -> None:
    more_patience = changed(decide={"goal": {"threshold": 0.5}, "patience": 9})
    first, second = prepare(context), prepare(context, more_patience)
    assert first.ref != second.ref
    assert mix_of(context, first) == mix_of(context, second)


def test_without_a_supervised_stage_the_first_round_is_round_1(
    context: Context,
) -> None:
    start = prepare(
        context, changed(train={"first": {"steps": 0}, "rounds": {"steps": 9}})
    )
    summary = read_summary(start, StartSummary)
    assert summary.supervised is False
    # It has a base to beat, so it is told like any other what its prompts can prove.
    assert (
        summary.smallest_gain
        == read_summary(prepare(context), StartSummary).smallest_gain
    )
    campaign = load_campaign(context, receipt_uri(context, start))
    assert campaign.next_round == 1
    assert campaign.state.plan == base_plan(campaign.recipe).model_copy(
        update={"level": 5}
    )


def test_pretraining_alone_is_planned_with_its_own_length(context: Context) -> None:
    train = {"pretrain": {"steps": 7, "learning_rate": 0.01}, "first": {"steps": 0}}
    plan = load_campaign(
        context, receipt_uri(context, prepare(context, changed(train=train)))
    ).state.plan
    assert (plan.steps, plan.learning_rate) == (7, 0.01)
    with pytest.raises(UserError, match="only `first` may have 0 steps"):
        prepare(context, changed(train={"rounds": {"steps": 0}}))


CONVERSATION = [
    {"role": "system", "content": "Be brief"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "2+2"},
    {"role": "assistant", "content": "4"},
]


def on_chat_model(
    folder: Path, template: str | None, **sections: Any
) -> dict[str, Any]:
    """The recipe with a chat model as its base and one conversation to learn from."""
    save_chat_model(folder / "base", chat_tokenizer(template))
    (folder / "chat.jsonl").write_text(json.dumps({"messages": CONVERSATION}) + "\n")
    recipe = with_file(folder / "chat.jsonl")
    return {**recipe, "model": {"source": f"file://{folder / 'base'}"}, **sections}


def test_a_conversation_arrives_with_its_roles(
    context: Context, tmp_path: Path
) -> None:
    start = prepare(context, on_chat_model(tmp_path, CHAT))
    prepared = data_of(context, start)
    rows = read_rows(fetch(context, prepared, "splits/train.jsonl"), TrainingRow)
    (row,) = [row for row in rows if row.conversation is not None]
    assert row.conversation is not None
    assert list(row.conversation.messages) == CONVERSATION
    prompts = read_rows(fetch(context, prepared, "splits/unlabelled.jsonl"), Prompt)
    assert all(prompt.conversation is None for prompt in prompts)


def test_a_conversation_that_the_template_refuses_is_named(
    context: Context, tmp_path: Path
) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    recipe = on_chat_model(tmp_path, refusing + CHAT)
    with pytest.raises(
        UserError, match=r"chat\.jsonl, line 1: .* refuses it \(no system\)"
    ):
        prepare(context, recipe)


@pytest.mark.parametrize(
    "template",
    [None, CHAT.replace("messages %}", "messages if m['role'] != 'system' %}")],
)
def test_a_system_prompt_without_effect_is_refused_before_anything_is_trained(
    context: Context, tmp_path: Path, template: str | None
) -> None:
    recipe = on_chat_model(tmp_path, template)
    prepare(context, {**recipe, "data": RECIPE["data"]})
    # Though data and base are prepared already: the system prompt is no part of them.
    recipe = {**recipe, "data": RECIPE["data"]}
    recipe["model"] = {**recipe["model"], "system_prompt": "Be brief"}
    with pytest.raises(UserError, match=r"model\.system_prompt has no effect"):
        prepare(context, recipe)


def test_answers_beyond_the_positions_of_a_model_are_refused(context: Context) -> None:
    model = {
        "scratch": {
            **RECIPE["model"]["scratch"],
            "architecture": "gpt2",
            "max_length": 16,
        }
    }
    # Six digits, a sign and the beginning: eight tokens.
    prepare(context, changed(model=model, generate={"max_new_tokens": 8}))
    with pytest.raises(
        UserError,
        match=r"generate\.max_new_tokens: .* 8 tokens.* 9 more .* 16 positions",
    ):
        prepare(context, changed(model=model, generate={"max_new_tokens": 9}))


@pytest.mark.parametrize(
    ("architecture", "layers", "says"),
    [
        ("lstm", {"max_extra": 1}, "LstmForCausalLM has no list of decoder layers"),
        ("lstm", {"extra": -1}, "LstmForCausalLM has no list of decoder layers"),
        (
            "llama",
            {"extra": -1, "min_extra": -2},
            "has 2 decoder layers, and one has to stay",
        ),
    ],
)
def test_layers_that_the_base_cannot_have_are_refused_before_anything_is_trained(
    context: Context, architecture: str, layers: dict[str, Any], says: str
) -> None:
    scratch = {
        **RECIPE["model"]["scratch"],
        "num_layers": 2,
        "architecture": architecture,
    }
    recipe = changed(model={"scratch": scratch}, train={"layers": layers})
    with pytest.raises(UserError, match=says):
        prepare(context, recipe)
