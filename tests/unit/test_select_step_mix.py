"""The mix that the select step makes of accepted, earlier and labelled rows."""

from __future__ import annotations

import pytest

from components.contracts.rows import TrainingRow
from components.runtime.context import Context
from components.runtime.receipts import fetch
from components.select.step import SelectInputs, run
from tests.unit.crafted import generated, recipe_of, rows, store
from tests.unit.selecting import PROMPTS, answers, campaign, shards, summary_of


def test_learning_from_pairs_puts_a_wrong_answer_beside_each_accepted_one(
    context: Context,
) -> None:
    recipe = recipe_of(train={"method": "dpo"})
    receipt = run(
        SelectInputs(campaign(context, recipe=recipe), shards(context)), context
    )
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
        run(SelectInputs(state, shards(context, number, round=2)), context)
        for number in (1, 3)
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


def test_the_mix_has_the_plans_labelled_share_and_accumulates_earlier_rounds(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    old = [
        TrainingRow(
            id=f"old-{n}",
            prompt=f"{n}+50=",
            completion=str(n + 50),
            source="self",
            round=1,
        )
        for n in range(5)
    ]
    again = TrainingRow(
        id="old-again", prompt="1+1=", completion="2", source="self", round=1
    )
    earlier = store(context, "select", {"accepted.jsonl": [*old, again]}, {"round": 1})
    state = campaign(context, round=1, selections=(earlier.ref,))
    receipt = run(SelectInputs(state, shards(context, round=2)), context)
    mix = rows(context, receipt, "mix.jsonl")
    total = sum(row.weight for row in mix)
    assert total == pytest.approx(len(mix)) == 10 + 5 + 36
    assert sum(
        row.weight for row in mix if row.source == "labelled"
    ) / total == pytest.approx(0.5)
    assert sum(row.weight for row in mix if row.round == 2) / total == pytest.approx(
        0.25
    )
    assert summary_of(receipt).older_left_out == {"superseded": 1}
    assert summary_of(receipt).self_rows == 41
    assert "labelled rows are" not in capsys.readouterr().err


def test_a_union_mixes_rows_as_they_are_and_warns_where_labelled_ones_are_few(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(select={"union": True})
    receipt = run(
        SelectInputs(campaign(context, recipe=recipe), shards(context)), context
    )
    mix = rows(context, receipt, "mix.jsonl")
    assert len(mix) == 10 + 36
    assert [row.weight for row in mix] == pytest.approx([1.0] * 46)
    assert "labelled rows are 22% of what training draws" in capsys.readouterr().err


def test_a_row_of_two_earlier_rounds_counts_as_the_later_ones(context: Context) -> None:
    """Also for the next round: of what was found again the newest is the one that stays."""
    earlier = []
    for number in (1, 2):
        row = TrainingRow(
            id=f"r{number}",
            prompt="9+50=",
            completion="59",
            source="self",
            round=number,
        )
        earlier.append(
            store(context, "select", {"accepted.jsonl": [row]}, {"round": number})
        )
    state = campaign(
        context, round=2, selections=tuple(receipt.ref for receipt in earlier)
    )
    receipt = run(SelectInputs(state, shards(context, round=3)), context)
    (row,) = (
        row for row in rows(context, receipt, "mix.jsonl") if row.prompt == "9+50="
    )
    assert (row.id, row.round) == ("r2", 2)
    assert receipt.summary["older_left_out"] == {"superseded": 1}


def test_weights_of_accepted_rows_are_relative_to_their_mean(context: Context) -> None:
    """A prompt that half of the samples solve counts 4/3 of one that a quarter solves, in every
    round the same, however many of each there are."""
    texts = {
        prompt.text: answers(prompt)
        if number % 3
        else [*answers(prompt)[1:], "nothing"]
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
            campaign(context, recipe=recipe_of(select={"unsafe_replace": True})),
            shards(context),
        ),
        context,
    )
    assert {row.source for row in rows(context, receipt, "mix.jsonl")} == {"self"}


def test_prompts_of_an_evaluation_split_never_reach_the_mix(context: Context) -> None:
    leaked = PROMPTS[:3]
    receipt = run(
        SelectInputs(campaign(context, validation=tuple(leaked)), shards(context)),
        context,
    )
    assert summary_of(receipt).dropped["in_evaluation"] == 12
    assert not {one.text for one in leaked} & {
        row.prompt for row in rows(context, receipt, "mix.jsonl")
    }


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
    assert (summary.generated, summary.accepted, summary.prompts_accepted) == (
        144,
        36,
        36,
    )
    assert summary.dropped == {"duplicate": 36, "verifier": 72}
    assert (summary.labelled_rows, summary.self_rows, summary.bias) == (0, 0, {})
    assert receipt.objects.keys() == {"accepted.jsonl", "dropped.jsonl"}
    assert (
        len(fetch(context, receipt, "accepted.jsonl").read_bytes().splitlines()) == 36
    )
    assert (
        len(fetch(context, receipt, "dropped.jsonl").read_bytes().splitlines()) == 108
    )
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


def test_an_answer_that_was_cut_off_is_marked_as_one_that_goes_on(
    context: Context,
) -> None:
    recipe = recipe_of(
        select={"require_finished": False, "verifier": False, "min_accepted": 1},
    )
    answered = generated(context, PROMPTS[:1], {PROMPTS[0].text: ["42", "forty-t…"]})
    receipt = run(SelectInputs(campaign(context, recipe=recipe), (answered,)), context)
    taught = {
        row.completion: row.goes_on for row in rows(context, receipt, "mix.jsonl")
    }
    assert taught["42"] is False
    assert taught["forty-t…"] is True
