"""Prompts that the model writes itself: how it is asked, what is left of them, and the round's receipt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.contracts.recipe import SelectSection
from components.contracts.recipe_file import parse_recipe
from components.contracts.rows import Dropped, OpenTurn, Prompt, Sample, read_rows
from components.contracts.summaries import GenerateSummary, SelectSummary
from components.errors import UserError
from components.generate import step as generate
from components.generate.own_prompts import known_prompts, sift, writing_asks
from components.modeling.encoding import load_codec
from components.report.checks import written_line
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import fetch, read_summary, receipt_uri
from components.select import step as select
from tests.unit.chat_models import save_chat_model
from tests.unit.crafted import ask
from tests.unit.preparing import prepare
from tests.unit.selections import account_of, answers
from tests.unit.taught import first_round

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "own-prompts.yaml"
KNOWN = ["Count the red apples", "Name the capital of Peru"]


def recipe(folder: Path, **own_prompts: Any) -> dict[str, Any]:
    """The recipe `own-prompts` as it is shipped, with a tiny model and little data."""
    document: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    prompts = {
        "train": KNOWN,
        "validation": [
            "How many legs has a spider in all?",
            *(f"v {n}" for n in range(12)),
        ],
        "dev": [f"d {number}" for number in range(4)],
        "test": [f"t {number}" for number in range(4)],
    }
    sources = []
    for split, texts in prompts.items():
        path = folder / f"{split}.jsonl"
        rows = [json.dumps({"prompt": text, "completion": "8"}) for text in texts]
        path.write_text("\n".join(rows), encoding="utf-8")
        sources.append({"uri": str(path), "split": split})
    document["data"] = {"sources": sources}
    document["model"] = {"source": str(save_chat_model(folder / "chat"))}
    document["generate"] |= {
        "prompts_per_round": 48,
        "samples_per_prompt": 2,
        "top_k": 0,
    }
    document["generate"]["own_prompts"] |= own_prompts
    document["select"]["min_accepted"] = 1
    document["decide"] |= {"max_rounds": 1, "alpha": 0.5}
    return document


def campaign_of(context: Context, folder: Path, **own_prompts: Any) -> Campaign:
    start = prepare(context, recipe(folder, **own_prompts))
    return load_campaign(context, receipt_uri(context, start))


def test_each_try_shows_other_prompts_of_the_data_or_opens_the_users_turn(
    context: Context, tmp_path: Path
) -> None:
    campaign = campaign_of(context, tmp_path, shown=1)
    known = known_prompts(context, campaign)
    assert known == KNOWN
    asks = writing_asks(campaign, known)
    assert len({one.prompt.id for one in asks}) == len({one.seed for one in asks}) == 48
    shown = {one.prompt.text.splitlines()[2] for one in asks}
    assert shown == {f"Question 1: {text}" for text in KNOWN}
    assert all(one.prompt.text.endswith("\nQuestion 2:") for one in asks)
    codec = load_codec(tmp_path / "chat")
    opened = codec.tokenizer.decode(codec.prompt_ids(OpenTurn()))
    assert opened == "<start_of_turn>user\n"
    asked = codec.tokenizer.decode(codec.prompt_ids("Hello"))
    assert asked.startswith(opened)


def test_only_new_whole_prompts_outside_of_evaluation_are_asked(
    context: Context, tmp_path: Path
) -> None:
    campaign = campaign_of(context, tmp_path)
    said = {
        " Question 5: Count the 12 green apples\nQuestion 6: and": "",
        "Count the 12 green apples": "repeats",
        "Count the 12 green apples!": "repeats",
        # The same words with another number ask something else.
        "Count the 13 green apples": "",
        "name the capital of  PERU": "repeats",
        "Q: how many legs has a spider, in all": "in_evaluation",
        " \n": "empty",
        "Question 3:": "empty",
    }
    samples = [
        Sample(
            prompt_id="x", index=0, seed=seed, text=text, num_tokens=9, finished=True
        )
        for seed, text in enumerate(said)
    ]
    cut = samples[3].model_copy(
        update={"text": "A question that was cut o", "finished": False}
    )
    # What stands before the next question is whole, although the rest of the list was cut.
    samples[0] = samples[0].model_copy(update={"finished": False})
    written = sift(context, campaign, [*samples, cut], KNOWN)
    assert [one.text for one in written.prompts] == [
        "Count the 12 green apples",
        "Count the 13 green apples",
    ]
    assert {one.verifier for one in written.prompts} == {"numeric"}
    reasons = {row.row["seed"]: row.reason for row in written.dropped[:-1]}
    assert reasons == {seed: why for seed, why in enumerate(said.values()) if why}
    assert written.dropped[-1].reason == "cut_off"


def test_a_round_asks_what_the_model_wrote_and_says_what_became_of_it(
    context: Context, tmp_path: Path
) -> None:
    state = first_round(context, prepare(context, recipe(tmp_path, form="turn")))
    shard = generate.run(generate.GenerateInputs(state, 0), context)
    summary = read_summary(shard, GenerateSummary)
    counts = summary.written
    assert counts is not None
    assert counts.tried == 48
    assert 0 < counts.asked == summary.prompts < 48
    assert counts.asked + sum(counts.dropped.values()) == counts.tried
    prompts = list(read_rows(fetch(context, shard, "prompts.jsonl"), Prompt))
    rejected = list(read_rows(fetch(context, shard, "rejected_prompts.jsonl"), Dropped))
    assert len(prompts) + len(rejected) == 48
    assert summary.generated == 2 * len(prompts)
    sentence = written_line(summary)
    assert sentence.startswith(
        f"The model wrote 48 prompts, and {counts.asked} of them were asked"
    )
    assert f"cut_off {counts.dropped['cut_off']}" in sentence
    # Its own prompts have no reference: what two random answers do not agree on is dropped.
    selected = select.run(select.SelectInputs(state, (shard,)), context)
    about = read_summary(selected, SelectSummary)
    assert (about.generated, about.accepted) == (summary.generated, 0)
    assert set(about.dropped) <= {"vote", "unfinished", "empty"}


def test_a_round_whose_prompts_are_all_refused_is_a_weak_one(
    context: Context, tmp_path: Path
) -> None:
    state = first_round(
        context, prepare(context, recipe(tmp_path, form="turn", max_new_tokens=1))
    )
    shard = generate.run(generate.GenerateInputs(state, 0), context)
    assert read_summary(shard, GenerateSummary).generated == 0
    selected = select.run(select.SelectInputs(state, (shard,)), context)
    assert read_summary(selected, SelectSummary).accepted == 0


def test_without_a_verifier_the_share_that_agrees_is_the_pass_rate() -> None:
    section = SelectSection.model_validate(
        {"verifier": False, "min_vote_share": 0.5, "difficulty": {"replay": 0.0}}
    )
    sure, unsure, split = ask("a", "1"), ask("b", "1"), ask("c", "1")
    samples = [
        *answers(sure, "1", "1", "1", "1"),
        *answers(unsure, "2", "2", "2", "3"),
        *answers(split, "4", "5", "6", "7"),
    ]
    kept, dropped, _ = account_of(samples, section)
    assert {one.prompt.id for one in kept} == {unsure.id}
    assert {one.weight for one in kept} == {4 * 0.75 * 0.25}
    details = {row.detail for row in dropped if row.reason == "solved"}
    assert details == {"all 4 samples agree"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"select": {"min_vote_share": 0.0, "difficulty": None}},
            "tells good answers from bad",
        ),
        ({"select": {"verifier": True}}, "no right answer is known"),
        ({"generate": {"shards": 2}}, "shards 1"),
        ({"generate": {"from": "prompts"}}, "`own_prompts` is for"),
    ],
)
def test_a_recipe_that_cannot_learn_from_its_own_prompts_says_why(
    tmp_path: Path, changes: dict[str, dict[str, Any]], message: str
) -> None:
    document = recipe(tmp_path)
    for section, settings in changes.items():
        document[section] |= settings
    with pytest.raises(UserError, match=message):
        parse_recipe(document)


def test_a_model_without_a_template_cannot_go_on_as_the_user(
    context: Context, tmp_path: Path
) -> None:
    document = recipe(tmp_path, form="turn")
    document["model"] = {
        "scratch": {"hidden_size": 16, "num_layers": 1, "tokenizer": "byte"}
    }
    with pytest.raises(
        UserError, match="no chat template, so no turn of a user can be opened"
    ):
        prepare(context, document)
