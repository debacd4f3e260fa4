"""The select step on stored samples: what is accepted, mixed and refused."""

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
from tests.unit.crafted import PLAN, ask, decided, generated, prepare, recipe_of, store
from tests.unit.test_select_scorers import save_reward_model
from tests.unit.tiny import save_tiny

PROMPTS = [ask(f"{a}+{b}=", str(a + b), task="sum") for a in range(1, 7) for b in range(1, 7)]
LABELLED = [
    TrainingRow(id=f"labelled-{n}", prompt=f"{n}+0=", completion=str(n), source="labelled", round=0)
    for n in range(10)
]


def answers(prompt: Prompt) -> list[str]:
    """A right answer, the same again, and two wrong ones."""
    right = int(prompt.reference["answer"])
    return [f" {right}\n", str(right), str(right + 1), "none"]


def campaign(
    context: Context,
    *,
    validation: tuple[Prompt, ...] = (),
    recipe: Recipe | None = None,
    **state: Any,
) -> str:
    prepared = prepare(context, recipe or recipe_of(), train=LABELLED, validation=validation)
    return decided(context, prepared, **state)


def shards(
    context: Context, number: int = 2, prompts: list[Prompt] = PROMPTS, **summary: Any
) -> tuple[Receipt, ...]:
    texts = {prompt.text: answers(prompt) for prompt in prompts}
    return tuple(
        generated(context, prompts[shard::number], texts, shard=shard, shards=number, **summary)
        for shard in range(number)
    )


def summary_of(receipt: Receipt) -> SelectSummary:
    return read_summary(receipt, SelectSummary)


def rows(context: Context, receipt: Receipt, name: str) -> list[TrainingRow]:
    return list(read_rows(fetch(context, receipt, name), TrainingRow))


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


def test_learning_from_pairs_puts_a_wrong_answer_beside_each_accepted_one(context: Context) -> None:
    recipe = recipe_of(train={"method": "dpo"})
    receipt = run(SelectInputs(campaign(context, recipe=recipe), shards(context)), context)
    accepted = rows(context, receipt, "accepted.jsonl")
    # The first of two wrong answers, and in the mix as well; labelled rows have none.
    assert {row.worse for row in accepted if row.prompt == "3+4="} == {"8"}
    assert summary_of(receipt).pairs == len(accepted) == 36
    mix = rows(context, receipt, "mix.jsonl")
    assert {row.source for row in mix if row.worse is not None} == {"self"}
    assert sum(row.worse is not None for row in mix) == 36
    # Without pairs it is other work, and no row has one.
    plain = run(SelectInputs(campaign(context), shards(context)), context)
    assert plain.key != receipt.key
    assert all(row.worse is None for row in rows(context, plain, "accepted.jsonl"))


def test_wrong_answers_by_themselves_are_in_a_file_of_their_own_and_accumulate(
    context: Context,
) -> None:
    def wrong(prompt: str, text: str) -> TrainingRow:
        name = f"{prompt}{text}"
        return TrainingRow(
            id=name, prompt=prompt, completion=text, wrong=True, source="self", round=1
        )

    # One that this round gives again, one that a labelled row calls right, and one that stays.
    older = [wrong("1+1=", "3"), wrong("3+0=", "3"), wrong("9+9=", "19")]
    files = {"accepted.jsonl": [], "wrong.jsonl": older}
    earlier = store(context, "select", files, {"round": 1})
    recipe = recipe_of(train={"method": "kto"})
    state = campaign(context, recipe=recipe, round=1, selections=(earlier.ref,))
    receipts = [
        run(SelectInputs(state, shards(context, number, round=2)), context) for number in (1, 3)
    ]
    assert len({receipt.objects["wrong.jsonl"].sha256 for receipt in receipts}) == 1
    receipt = receipts[0]
    all_wrong = rows(context, receipt, "wrong.jsonl")
    assert all(row.wrong for row in all_wrong)
    assert len(all_wrong) == summary_of(receipt).wrong_rows == 2 * 36 + 1
    answers_of = {row.completion for row in all_wrong if row.prompt == "1+1="}
    assert answers_of == {"3", "none"}
    assert [row.completion for row in all_wrong if row.round == 1] == ["19"]
    # Half of the draws for the newest round, as of the accepted samples.
    newest_weight = sum(row.weight for row in all_wrong if row.round == 2)
    assert newest_weight / sum(row.weight for row in all_wrong) == pytest.approx(0.5)
    for name in ("accepted.jsonl", "mix.jsonl"):
        assert not any(row.wrong or row.worse for row in rows(context, receipt, name))


def test_the_result_does_not_depend_on_the_number_or_order_of_shards(context: Context) -> None:
    state = campaign(context)
    one, three = shards(context, 1), shards(context, 3)
    receipts = [run(SelectInputs(state, given), context) for given in (one, three, three[::-1])]
    assert len({receipt.objects["mix.jsonl"].sha256 for receipt in receipts}) == 1
    assert receipts[1] == receipts[2]


def test_the_mix_has_the_plans_labelled_share_and_accumulates_earlier_rounds(
    context: Context,
) -> None:
    old = [
        TrainingRow(
            id=f"old-{n}", prompt=f"{n}+50=", completion=str(n + 50), source="self", round=1
        )
        for n in range(5)
    ]
    again = TrainingRow(id="old-again", prompt="1+1=", completion="2", source="self", round=1)
    earlier = store(context, "select", {"accepted.jsonl": [*old, again]}, {"round": 1})
    state = campaign(context, round=1, selections=(earlier.ref,))
    receipt = run(SelectInputs(state, shards(context, round=2)), context)
    mix = rows(context, receipt, "mix.jsonl")
    total = sum(row.weight for row in mix)
    assert total == pytest.approx(len(mix)) == 10 + 5 + 36
    assert sum(row.weight for row in mix if row.source == "labelled") / total == pytest.approx(0.5)
    assert sum(row.weight for row in mix if row.round == 2) / total == pytest.approx(0.25)
    assert summary_of(receipt).older_left_out == {"superseded": 1}
    assert summary_of(receipt).self_rows == 41


def test_a_union_mixes_rows_as_they_are_and_warns_where_labelled_ones_are_few(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(select={"union": True})
    receipt = run(SelectInputs(campaign(context, recipe=recipe), shards(context)), context)
    mix = rows(context, receipt, "mix.jsonl")
    assert len(mix) == 10 + 36
    assert [row.weight for row in mix] == pytest.approx([1.0] * 46)
    assert "labelled rows are 22% of what training draws" in capsys.readouterr().err


def test_a_row_of_two_earlier_rounds_counts_as_the_later_ones(context: Context) -> None:
    """Also for the next round: of what was found again the newest is the one that stays."""
    earlier = []
    for number in (1, 2):
        row = TrainingRow(
            id=f"r{number}", prompt="9+50=", completion="59", source="self", round=number
        )
        earlier.append(store(context, "select", {"accepted.jsonl": [row]}, {"round": number}))
    state = campaign(context, round=2, selections=tuple(receipt.ref for receipt in earlier))
    receipt = run(SelectInputs(state, shards(context, round=3)), context)
    (row,) = (row for row in rows(context, receipt, "mix.jsonl") if row.prompt == "9+50=")
    assert (row.id, row.round) == ("r2", 2)
    assert receipt.summary["older_left_out"] == {"superseded": 1}


def test_weights_of_accepted_rows_are_relative_to_their_mean(context: Context) -> None:
    """A prompt that half of the samples solve counts 4/3 of one that a quarter solves, in every
    round the same, however many of each there are."""
    texts = {
        prompt.text: answers(prompt) if number % 3 else [*answers(prompt)[1:], "nothing"]
        for number, prompt in enumerate(PROMPTS)
    }
    shard = generated(context, PROMPTS, texts)
    recipe = recipe_of(select={"difficulty": {}})
    receipt = run(SelectInputs(campaign(context, recipe=recipe), (shard,)), context)
    weights = [row.weight for row in rows(context, receipt, "accepted.jsonl")]
    assert sum(weights) == pytest.approx(len(weights)) == 36
    assert max(weights) / min(weights) == pytest.approx(4 / 3)


def test_unsafe_replace_trains_on_the_newest_samples_alone(context: Context) -> None:
    receipt = run(
        SelectInputs(
            campaign(context, recipe=recipe_of(select={"unsafe_replace": True})), shards(context)
        ),
        context,
    )
    assert {row.source for row in rows(context, receipt, "mix.jsonl")} == {"self"}


def test_prompts_of_an_evaluation_split_never_reach_the_mix(context: Context) -> None:
    leaked = PROMPTS[:3]
    receipt = run(
        SelectInputs(campaign(context, validation=tuple(leaked)), shards(context)), context
    )
    assert summary_of(receipt).dropped["in_evaluation"] == 12
    assert not {one.text for one in leaked} & {
        row.prompt for row in rows(context, receipt, "mix.jsonl")
    }


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
        read_summary(run(SelectInputs(state, (second, first)), context), SelectSummary).generated
        == 144
    )


def test_a_weak_round_keeps_its_samples_and_has_no_mix_to_train_on(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    state = campaign(context, recipe=recipe_of(select={"min_accepted": 37}))
    receipt = run(SelectInputs(state, shards(context)), context)
    summary = summary_of(receipt)
    words = (
        "36 of 144 samples accepted, select.min_accepted is 37 (dropped: verifier 72, duplicate "
        "36); most were dropped as `verifier`: the model answers too few of these prompts"
    )
    assert (summary.why_weak or "").startswith(words)
    assert (summary.generated, summary.accepted, summary.prompts_accepted) == (144, 36, 36)
    assert summary.dropped == {"duplicate": 36, "verifier": 72}
    assert (summary.labelled_rows, summary.self_rows, summary.bias) == (0, 0, {})
    assert receipt.objects.keys() == {"accepted.jsonl", "dropped.jsonl"}
    assert len(fetch(context, receipt, "accepted.jsonl").read_bytes().splitlines()) == 36
    assert len(fetch(context, receipt, "dropped.jsonl").read_bytes().splitlines()) == 108
    # Whoever starts the run again is told again.
    for _ in range(2):
        said = capsys.readouterr().err
        assert f"select-r1 · nothing is trained in this round: {words}" in said
        assert run(SelectInputs(state, shards(context)), context) == receipt


def test_a_round_with_just_enough_accepted_rows_is_not_weak(context: Context) -> None:
    state = campaign(context, recipe=recipe_of(select={"min_accepted": 36}))
    receipt = run(SelectInputs(state, shards(context)), context)
    assert summary_of(receipt).why_weak is None
    assert summary_of(receipt).self_rows == 36
    assert "mix.jsonl" in receipt.objects


def test_an_answer_that_was_cut_off_is_marked_as_one_that_goes_on(context: Context) -> None:
    recipe = recipe_of(
        select={"require_finished": False, "verifier": False, "min_accepted": 1},
    )
    answered = generated(context, PROMPTS[:1], {PROMPTS[0].text: ["42", "forty-t…"]})
    receipt = run(SelectInputs(campaign(context, recipe=recipe), (answered,)), context)
    taught = {row.completion: row.goes_on for row in rows(context, receipt, "mix.jsonl")}
    assert taught["42"] is False
    assert taught["forty-t…"] is True


def test_the_same_work_is_not_done_twice(context: Context) -> None:
    inputs = SelectInputs(campaign(context), shards(context))
    assert run(inputs, context) == run(inputs, context)
    assert run(inputs, context).config["samples"] == [receipt.ref for receipt in inputs.samples]


def test_a_changed_function_of_the_users_is_new_work(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "own_checks.py"
    recipe = recipe_of(select={"verifier_function": "own_checks.accepts", "min_accepted": 1})
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
        run_id="crafted-run", prepared=store(context, "prepare", files, {}).ref, plan=PLAN
    )
    documents = {"recipe.json": recipe, "state.json": state}
    return store(
        context,
        "start",
        {name: canonical_json(one.model_dump(mode="json")) for name, one in documents.items()},
        {},
    )


def audited(
    context: Context, audit: list[Prompt], texts: dict[str, list[str]], **select: Any
) -> tuple[Receipt, list[TrainingRow]]:
    """Select, without a verifier, from a round that answers the pool and the audit split; and what
    is accepted."""
    recipe = recipe_of(
        select={"verifier": False, "minhash_threshold": 1.0, "min_accepted": 1, **select}
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


def test_audit_samples_measure_the_filters_and_are_counted_nowhere_else(context: Context) -> None:
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


def test_a_calibrated_vote_without_an_audit_split_says_what_is_missing(context: Context) -> None:
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
                row.model_dump() for row in read_rows(fetch(context, shard, f"{name}.jsonl"), kind)
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
        large.append(store(context, "generate", files, read_summary(shard, GenerateSummary)))
    wanted = list(gather(context, plain, tmp_path))
    assert len(wanted) == 1, "so few are one block"
    assert list(gather(context, large, tmp_path)) == wanted
    small = list(gather(context, plain, tmp_path, bucket_bytes=2000))
    assert [one for block in small for one in block] == list(wanted[0])
    assert len(small) > 5
    state = campaign(context)
    receipts = [run(SelectInputs(state, tuple(given)), context) for given in (plain, large)]
    assert receipts[0].objects == receipts[1].objects
    broken = store(
        context,
        "generate",
        {"prompts.parquet": b"PAR1 no", "samples.parquet": b""},
        read_summary(plain[0], GenerateSummary),
    )
    with pytest.raises(Corrupt, match="row 0: not a Prompt row"):
        list(gather(context, [broken], tmp_path))


def test_influence_and_likelihood_ask_the_champion(context: Context, tmp_path: Path) -> None:
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
            "likelihood": {"champion": [1.0, 1e9], "base": [1.0, 1e9], "ratio": [0.99, 1.01]},
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
        assert row.provenance["scores"].keys() == {"champion", "base", "ratio", "influence"}
        assert row.provenance["scores"]["influence"] > 0
    assert {row.weight for row in accepted} == {1.0}
    # The same scores rank samples for `keep`, which takes as many by each.
    names = {"influence": "influence", "likelihood": "base", "difficulty": "difficulty"}
    for by, name in names.items():
        section = {"keep": {"by": by, "share": 0.25}, "verifier": False, "minhash_threshold": 1.0}
        start = started(context, recipe_of(select=section), files)
        uri = decided(context, start, champion=champion.ref)
        receipt = run(SelectInputs(uri, shards(context, champion=champion.ref)), context)
        told = summary_of(receipt)
        assert told.filters["choice"].accepted == told.accepted
        assert told.accepted == math.ceil(told.filters["choice"].given / 4)
        kept = [row.provenance["scores"] for row in rows(context, receipt, "accepted.jsonl")]
        assert all(scores.keys() == {name} for scores in kept)
        # An answer that its prompt makes no likelier counts as 0.
        if by == "difficulty":
            assert all(0 <= scores[name] < 1 for scores in kept)
