"""The select step on stored samples: what is accepted, audited, done again and refused."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from components.canonical import canonical_json
from components.contracts.recipe import Recipe
from components.contracts.rows import Dropped, Prompt, Sample, TrainingRow, read_rows
from components.contracts.state import State
from components.contracts.summaries import GenerateSummary, SelectSummary
from components.contracts.summaries.select import FilterCounts
from components.errors import Corrupt, UserError
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_summary
from components.select.sorted_samples import gather
from components.select.step import SelectInputs, run
from tests.unit.crafted import PLAN, ask, decided, generated, recipe_of, rows, store
from tests.unit.reward_models import save_reward_model
from tests.unit.selecting import (
    LABELLED,
    PROMPTS,
    answers,
    campaign,
    shards,
    summary_of,
)
from tests.unit.tiny import save_tiny


def test_accepted_and_dropped_hold_every_sample_once_and_only_text_of_the_model(
    context: Context,
) -> None:
    receipt = run(SelectInputs(campaign(context), shards(context)), context)
    accepted, dropped = (
        rows(context, receipt, "accepted.jsonl"),
        list(read_rows(fetch(context, receipt, "dropped.jsonl"), Dropped)),
    )
    assert Counter(row.reason for row in dropped) == {"verifier": 72, "duplicate": 36}
    assert summary_of(receipt).dropped == {"verifier": 72, "duplicate": 36}
    assert summary_of(receipt).generated == 144 == len(accepted) + len(dropped)
    assert summary_of(receipt).acceptance == 0.25
    assert summary_of(receipt).prompts_accepted == summary_of(receipt).prompts == 36
    assert summary_of(receipt).distinct_share == 0.75
    assert {row.completion for row in accepted if row.prompt == "3+4="} == {" 7\n"}
    assert accepted[0].provenance.keys() == {
        "champion",
        "prompt_id",
        "index",
        "seed",
        "vote_share",
        "verdict",
        "pass_rate",
    }
    assert accepted[0].source == "self"
    assert accepted[0].round == 1


def test_the_result_does_not_depend_on_the_number_or_order_of_shards(
    context: Context,
) -> None:
    state = campaign(context)
    one, three = shards(context, 1), shards(context, 3)
    receipts = [
        run(SelectInputs(state, given), context) for given in (one, three, three[::-1])
    ]
    assert len({receipt.objects["mix.jsonl"].sha256 for receipt in receipts}) == 1
    assert receipts[1] == receipts[2]


def test_a_missing_repeated_or_foreign_shard_is_corrupt(context: Context) -> None:
    state, (first, second) = campaign(context), shards(context)
    for given, message in (
        ((first,), "got shards \\[0\\] of \\[2\\]"),
        ((first, first), "got shards \\[0, 0\\]"),
        ((), "got shards \\[\\]"),
        ((first, *shards(context, round=2)[1:]), "needs"),
        ((first, *shards(context, champion="train/other")[1:]), "needs"),
    ):
        with pytest.raises(Corrupt, match=message):
            run(SelectInputs(state, given), context)
    assert (
        read_summary(
            run(SelectInputs(state, (second, first)), context), SelectSummary
        ).generated
        == 144
    )


def test_the_same_work_is_not_done_twice(context: Context) -> None:
    inputs = SelectInputs(campaign(context), shards(context))
    assert run(inputs, context) == run(inputs, context)
    assert run(inputs, context).config["samples"] == [
        receipt.ref for receipt in inputs.samples
    ]


def test_a_changed_function_of_the_users_is_new_work(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "own_checks.py"
    recipe = recipe_of(
        select={"verifier_function": "own_checks.accepts", "min_accepted": 1}
    )
    inputs = SelectInputs(campaign(context, recipe=recipe), shards(context))

    def selected_with(body: str) -> Receipt:
        """As a new process would, with the module as it is now."""
        module.write_text(f"def accepts(prompt, text, reference):\n    {body}\n")
        monkeypatch.delitem(sys.modules, "own_checks", raising=False)
        return run(inputs, context)

    first = selected_with("return True")
    assert selected_with("return True  # every answer") == first
    changed = selected_with("return prompt.startswith('1')")
    assert changed.key != first.key
    assert summary_of(changed).dropped["function"] > 0

    # The same of what the function imports beside itself, at the top or when it is called.
    helper = tmp_path / "own_helper.py"
    helper.write_text("def right(prompt):\n    return True\n")
    body = "import own_helper; return own_helper.right(prompt)"
    with_helper = selected_with(body)
    helper.write_text("def right(prompt):\n    return prompt.startswith('1')\n")
    monkeypatch.delitem(sys.modules, "own_helper", raising=False)
    assert selected_with(body).key != with_helper.key


def test_a_reward_model_that_was_replaced_under_its_name_is_new_work(
    context: Context, tmp_path: Path
) -> None:
    folder = save_reward_model(tmp_path / "reward")
    reward = {"source": str(folder), "min_score": -100.0}
    recipe = recipe_of(select={"reward": reward, "min_accepted": 1})
    inputs = SelectInputs(campaign(context, recipe=recipe), shards(context))
    first = run(inputs, context)
    assert run(inputs, context) == first
    (folder / "model.safetensors").unlink()
    save_reward_model(folder, seed=1)
    assert run(inputs, context).key != first.key


def started(
    context: Context, recipe: Recipe, files: dict[str, Sequence[BaseModel] | bytes]
) -> Receipt:
    """A start receipt over a prepare receipt with these files."""
    state = State(
        run_id="crafted-run",
        prepared=store(context, "prepare", files, {}).ref,
        plan=PLAN,
    )
    documents = {"recipe.json": recipe, "state.json": state}
    return store(
        context,
        "start",
        {
            name: canonical_json(one.model_dump(mode="json"))
            for name, one in documents.items()
        },
        {},
    )


def audited(
    context: Context, audit: list[Prompt], texts: dict[str, list[str]], **select: Any
) -> tuple[Receipt, list[TrainingRow]]:
    """Select, without a verifier, from a round that answers the pool and the audit split; and what
    is accepted."""
    recipe = recipe_of(
        select={
            "verifier": False,
            "minhash_threshold": 1.0,
            "min_accepted": 1,
            **select,
        }
    )
    splits: dict[str, Sequence[BaseModel]] = {
        "train": LABELLED,
        "validation": [],
        "test": [],
        "audit": audit,
    }
    files: dict[str, Sequence[BaseModel] | bytes] = {
        f"splits/{name}.jsonl": own for name, own in splits.items()
    }
    start = started(context, recipe, files)
    texts = {**texts, **{prompt.text: answers(prompt) for prompt in PROMPTS}}
    shard = generated(context, [*audit, *PROMPTS], texts)
    receipt = run(SelectInputs(decided(context, start), (shard,)), context)
    return receipt, rows(context, receipt, "accepted.jsonl")


def test_audit_samples_measure_the_filters_and_are_counted_nowhere_else(
    context: Context,
) -> None:
    audit = [ask(f"{n}+90=", str(n + 90)) for n in range(60)]
    texts = {one.text: [one.reference["answer"]] * 2 + ["0", "1"] for one in audit}
    receipt, accepted = audited(context, audit, texts, min_vote_share=0.5)
    told = summary_of(receipt).audit
    assert told is not None
    assert told.model_accuracy == 0.5
    assert told.filters["vote"].precision == 1.0
    assert told.filters["vote"].precision_low == pytest.approx(0.05 ** (1 / 60))
    assert (
        summary_of(receipt).teaches_errors,
        summary_of(receipt).why_blocked,
    ) == ((), None)
    assert (
        summary_of(receipt).generated,
        summary_of(receipt).prompts,
    ) == (144, 36)
    assert (
        summary_of(receipt).accepted,
        summary_of(receipt).audit_samples,
    ) == (36, 240)
    assert not {one.text for one in audit} & {row.prompt for row in accepted}


def test_a_round_whose_filters_teach_errors_is_marked_as_blocked_with_the_numbers(
    context: Context,
) -> None:
    """The model agrees with itself where it is wrong."""
    audit = [ask(f"{n}+90=", str(n + 90)) for n in range(60)]
    texts = {one.text: [one.reference["answer"], "0", "0", "1"] for one in audit}
    receipt, _ = audited(context, audit, texts, min_vote_share=0.5)
    assert summary_of(receipt).teaches_errors == ("vote",)
    why = summary_of(receipt).why_blocked
    assert why is not None
    assert "60 audit prompts" in why
    assert "the model's own accuracy is 0.250" in why


def test_a_calibrated_vote_without_an_audit_split_says_what_is_missing(
    context: Context,
) -> None:
    with pytest.raises(UserError, match=r"of 0 audit prompts.*split: audit"):
        audited(context, [], {}, calibrate_vote=True)


def test_samples_are_joined_the_same_from_parquet_and_in_many_small_files(
    context: Context, tmp_path: Path
) -> None:
    import pyarrow
    import pyarrow.parquet

    plain = shards(context)
    large = []
    for number, shard in enumerate(plain):
        files: dict[str, bytes] = {}
        for name, kind in (("prompts", Prompt), ("samples", Sample)):
            table = [
                row.model_dump()
                for row in read_rows(fetch(context, shard, f"{name}.jsonl"), kind)
            ]
            for row in table:
                row |= {
                    column: json.dumps(row[column])
                    for column in ("reference", "tags")
                    if column in row
                }
            path = tmp_path / f"{name}-{number}.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
            files[f"{name}.parquet"] = path.read_bytes()
        large.append(
            store(context, "generate", files, read_summary(shard, GenerateSummary))
        )
    wanted = list(gather(context, plain, tmp_path))
    assert len(wanted) == 1, "so few are one block"
    assert list(gather(context, large, tmp_path)) == wanted
    small = list(gather(context, plain, tmp_path, bucket_bytes=2000))
    assert [one for block in small for one in block] == list(wanted[0])
    assert len(small) > 5
    state = campaign(context)
    receipts = [
        run(SelectInputs(state, tuple(given)), context) for given in (plain, large)
    ]
    assert receipts[0].objects == receipts[1].objects
    broken = store(
        context,
        "generate",
        {"prompts.parquet": b"PAR1 no", "samples.parquet": b""},
        read_summary(plain[0], GenerateSummary),
    )
    with pytest.raises(Corrupt, match="row 0: not a Prompt row"):
        list(gather(context, [broken], tmp_path))


def test_influence_and_likelihood_ask_the_champion(
    context: Context, tmp_path: Path
) -> None:
    """The whole way, with a real tiny model as champion and base: every row has its scores."""
    folder = save_tiny(tmp_path / "model")
    model = {
        f"{name}/{path.name}": path.read_bytes()
        for path in folder.iterdir()
        for name in ("model", "base")
    }
    champion = store(context, "train", model, {"round": 0})
    recipe = recipe_of(
        select={
            "influence": {},
            "likelihood": {
                "champion": [1.0, 1e9],
                "base": [1.0, 1e9],
                "ratio": [0.99, 1.01],
            },
            "min_accepted": 1,
            "minhash_threshold": 1.0,
        }
    )
    splits = {"train": LABELLED, "dev": LABELLED[:4], "validation": [], "test": []}
    files: dict[str, Sequence[BaseModel] | bytes] = {
        **{f"splits/{name}.jsonl": own for name, own in splits.items()},
        **model,
    }
    start = started(context, recipe, files)
    uri = decided(context, start, champion=champion.ref)
    receipt = run(SelectInputs(uri, shards(context, champion=champion.ref)), context)
    accepted = rows(context, receipt, "accepted.jsonl")
    told = summary_of(receipt)
    assert told.filters["likelihood"] == FilterCounts(given=36, accepted=36)
    assert told.filters["influence"] == FilterCounts(given=36, accepted=told.accepted)
    for row in accepted:
        assert row.provenance["scores"].keys() == {
            "champion",
            "base",
            "ratio",
            "influence",
        }
        assert row.provenance["scores"]["influence"] > 0
    assert {row.weight for row in accepted} == {1.0}
    # The same scores rank samples for `keep`, which takes as many by each.
    names = {"influence": "influence", "likelihood": "base", "difficulty": "difficulty"}
    for by, name in names.items():
        section = {
            "keep": {"by": by, "share": 0.25},
            "verifier": False,
            "minhash_threshold": 1.0,
        }
        start = started(context, recipe_of(select=section), files)
        uri = decided(context, start, champion=champion.ref)
        receipt = run(
            SelectInputs(uri, shards(context, champion=champion.ref)), context
        )
        told = summary_of(receipt)
        assert told.filters["choice"].accepted == told.accepted
        assert told.accepted == math.ceil(told.filters["choice"].given / 4)
        kept = [
            row.provenance["scores"] for row in rows(context, receipt, "accepted.jsonl")
        ]
        assert all(scores.keys() == {name} for scores in kept)
        # An answer that its prompt makes no likelier counts as 0.
        if by == "difficulty":
            assert all(0 <= scores[name] < 1 for scores in kept)
