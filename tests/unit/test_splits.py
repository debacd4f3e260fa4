import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contracts.recipe import Fractions
from components.contracts.recipe_file import parse_recipe
from components.contracts.rows import Dropped
from components.errors import UserError
from components.prepare.examples import Example
from components.prepare.splits import CLAIM_ORDER, Splits, Target, make_splits
from components.verifiers import verify


def row(
    prompt: str, completion: str | None = "4", verifier: str = "exact", **tags: str
) -> Example:
    reference = {} if completion is None else {"answer": completion}
    return Example(
        prompt=prompt,
        completion=completion,
        verifier=verifier,
        reference=reference,
        tags=tags,
    )


def rows(split: Target, *prompts: str) -> list[tuple[Target, Example]]:
    return [(split, row(prompt)) for prompt in prompts]


def split_up(*items: tuple[Target, Example] | Dropped, seed: int = 0) -> Splits:
    return make_splits(items, Fractions(), seed)


MEASURED = [*rows("validation", "v"), *rows("test", "t")]


def ids(splits: Splits, name: str) -> set[str]:
    values: list[Any] = getattr(splits, name)
    return {value.id.split("-")[0] for value in values}


def test_auto_divides_by_the_fractions_and_by_prompt_whatever_the_order() -> None:
    items = rows("auto", *(f"question {number}" for number in range(1000)))
    splits = split_up(*items)
    counts = splits.counts
    assert 650 < counts["train"] + counts["unlabelled"] < 750
    for name in ("dev", "validation", "test"):
        assert 65 < counts[name] < 135
    again = split_up(*reversed(items))
    assert {name: ids(splits, name) for name in CLAIM_ORDER} == {
        name: ids(again, name) for name in CLAIM_ORDER
    }
    assert ids(split_up(*items, seed=1), "test") != ids(splits, "test")


def test_answers_of_one_prompt_stay_together_in_auto() -> None:
    items: list[tuple[Target, Example]] = [
        ("auto", row(f"q{number}", str(answer)))
        for number in range(100)
        for answer in range(3)
    ]
    splits = split_up(*items)
    assert not ids(splits, "train") & (
        ids(splits, "test") | ids(splits, "validation") | ids(splits, "dev")
    )
    assert splits.counts["train"] % 3 == 0
    asked = ("test", "validation", "unlabelled")
    assert splits.rejected_counts == {
        "duplicate": 2 * sum(splits.counts[name] for name in asked)
    }


def test_a_dev_row_is_also_asked_if_its_verifier_takes_its_own_answer() -> None:
    raw = Example(prompt="", completion="a text", verifier="exact", reference={})
    wrong = Example(
        prompt="half", completion="a half", verifier="numeric", reference={}
    )
    splits = split_up(
        *rows("dev", "asked", "v"),
        ("dev", raw),
        ("dev", wrong),
        *rows("train", "mine"),
        *MEASURED,
    )
    assert [row.prompt for row in splits.dev] == ["asked", "", "half"]
    assert [prompt.text for prompt in splits.dev_prompts] == ["asked"]
    assert splits.counts["dev_prompts"] == 1
    asked = ids(splits, "dev_prompts")
    for name in CLAIM_ORDER:
        assert name in ("dev", "dev_prompts") or not asked & ids(splits, name)


def test_a_training_row_that_is_measured_on_is_dropped_and_counted() -> None:
    splits = split_up(
        *rows("train", "v", " t ", "mine", "held"),
        *rows("unlabelled", "t", "u"),
        *rows("dev", "held", "v"),
        *MEASURED,
    )
    assert [one.prompt for one in splits.train] == ["mine"]
    assert [one.prompt for one in splits.dev] == ["held"]
    assert [one.text for one in splits.unlabelled] == ["u"]
    assert splits.rejected_counts == {"in_evaluation": 4, "in_dev": 1}
    assert any(
        "in test, this row was for train" in one.detail for one in splits.rejected
    )


@pytest.mark.parametrize(
    ("first", "second"),
    itertools.pairwise(
        (
            "vault",
            "test",
            "validation",
            "audit",
            "retention",
            "dev",
            "train",
            "unlabelled",
        )
    ),
)
def test_of_two_splits_that_claim_a_prompt_the_later_judge_has_it(
    first: Target, second: Target
) -> None:
    """What measures last is the least replaceable: vault, then test, then validation."""
    for claims in ((first, second), (second, first)):
        splits = split_up(
            *rows(claims[0], "claimed"),
            *rows(claims[1], "claimed"),
            *rows("train", "mine"),
            *rows("unlabelled", "asked"),
            *MEASURED,
        )
        claimed = row("claimed").identity
        assert claimed in ids(splits, first)
        assert claimed not in ids(splits, second)
        (refusal,) = splits.rejected
        assert refusal.detail.endswith(
            f"its prompt is in {first}, this row was for {second}"
        )


def test_one_question_may_be_taught_with_two_answers_but_the_same_row_once() -> None:
    splits = split_up(
        ("train", row("q", "a")),
        ("train", row("q", "b")),
        ("train", row("q", "b")),
        *MEASURED,
    )
    assert [one.completion for one in splits.train] == ["a", "b"]
    assert len({one.id for one in splits.train}) == 2
    assert splits.rejected_counts == {"duplicate": 1}


def test_without_unlabelled_prompts_the_training_questions_serve() -> None:
    splits = split_up(
        ("train", row("q", "#### 4", "numeric")),
        ("train", row("", "raw text")),
        *MEASURED,
    )
    (prompt,) = splits.unlabelled
    assert prompt.text == "q"
    assert verify(prompt, "it is 4")


def test_evaluation_prompts_carry_their_answer_out_of_the_models_sight() -> None:
    splits = split_up(
        *rows("train", "q"),
        ("validation", row("How many?", "#### 4", "numeric", label="x")),
        *rows("test", "t"),
    )
    (prompt,) = splits.validation
    assert (prompt.text, prompt.reference, prompt.tags) == (
        "How many?",
        {"answer": "#### 4"},
        {"label": "x"},
    )


def test_raw_text_is_for_training_never_a_question() -> None:
    texts: list[tuple[Target, Example]] = [
        ("auto", row("", f"text {number}")) for number in range(200)
    ]
    splits = split_up(
        *texts, *rows("train", "q"), ("retention", row("", "old text")), *MEASURED
    )
    assert splits.counts["train"] + splits.counts["dev"] == 201
    assert 5 < splits.counts["dev"] < 40
    assert splits.counts["retention"] == 1
    assert splits.counts["validation"] == splits.counts["test"] == 1
    with pytest.raises(UserError, match=r"validation is empty.*unverifiable 1"):
        split_up(
            *rows("train", "q"), *rows("test", "t"), ("validation", row("", "raw"))
        )


def test_a_question_that_its_own_verifier_could_never_pass_is_dropped() -> None:
    splits = split_up(
        *rows("train", "q"),
        ("test", row("n", "no number", "numeric")),
        ("test", row("r", "(a+", "regex")),
        *MEASURED,
    )
    assert splits.rejected_counts == {"unverifiable": 2}
    assert splits.counts["test"] == 1


def test_what_readers_rejected_is_counted_with_the_rest() -> None:
    dropped = Dropped(reason="not_json", detail="line 3", row={})
    assert split_up(dropped, *rows("train", "q"), *MEASURED).rejected_counts == {
        "not_json": 1
    }


@pytest.mark.parametrize("missing", ["train", "validation", "test"])
def test_an_empty_split_is_an_error_that_says_how_to_fill_it(missing: str) -> None:
    items = [
        item
        for name in ("train", "validation", "test", "unlabelled")
        if name != missing
        for item in rows(name, f"q {name}")
    ]
    with pytest.raises(UserError, match=f"split {missing} is empty; give a source"):
        split_up(*items)


def test_a_campaign_without_text_of_people_has_nothing_to_teach_and_says_that_it_is_meant() -> (
    None
):
    measured = [*rows("validation", "v"), *rows("test", "t"), *rows("dev", "d")]
    alone: dict[str, Any] = {
        "name": "alone",
        "model": {"source": "/models/some"},
        "data": {"sources": [{"uri": "file:///text.txt"}]},
        "generate": {"from": "nothing"},
        "select": {"verifier": False, "labelled_share": 0},
        "train": {"first": {"steps": 0}},
        "decide": {"goal": {"metric": "perplexity", "threshold": 9}},
    }
    without = parse_recipe(alone).may_be_empty
    assert without == {"train", "unlabelled"}
    splits = make_splits(measured, Fractions(), 0, may_be_empty=without)
    assert (splits.train, splits.unlabelled) == ([], [])
    with pytest.raises(
        UserError, match=r"train is empty.*select.labelled_share: 0 and train.first"
    ):
        split_up(*measured)
    changes: list[dict[str, Any]] = [
        {"select": {"verifier": False}},
        {"train": {}},
        {"model": {"source": "scratch"}},
    ]
    for change in changes:
        assert parse_recipe({**alone, **change}).may_be_empty == {"unlabelled"}
    asked = {**alone, "generate": {"from": "prompts"}}
    assert parse_recipe(asked).may_be_empty == {"train"}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["auto", *CLAIM_ORDER]),
            st.sampled_from("abcdefghijk"),
            st.sampled_from("12"),
        ),
        max_size=60,
    ),
    st.integers(0, 5),
)
def test_splits_are_disjoint_and_every_row_is_kept_or_counted(
    items: list[tuple[Target, str, str]], seed: int
) -> None:
    items = [
        *items,
        ("train", "l", "1"),
        ("validation", "m", "1"),
        ("test", "n", "1"),
    ]  # what every run must have
    splits = split_up(
        *((target, row(prompt, completion)) for target, prompt, completion in items),
        seed=seed,
    )
    own = sum(target == "unlabelled" for target, _, _ in items)
    # Dev rows and their prompts are two forms of one row.
    asked_dev = ids(splits, "dev_prompts") & ids(splits, "dev")
    owners = Counter(
        one
        for name in CLAIM_ORDER
        for one in ids(splits, name)
        if not (name == "dev_prompts" and one in asked_dev)
        and (name != "unlabelled" or own)
    )
    shared = [one for one, count in owners.items() if count > 1]
    assert not shared or ids(splits, "unlabelled") <= ids(splits, "train")
    given_unlabelled = (
        splits.counts["unlabelled"]
        if not ids(splits, "unlabelled") <= ids(splits, "train")
        else 0
    )
    counted = sum(splits.counts.values()) - len(asked_dev)
    kept = counted - splits.counts["unlabelled"] + given_unlabelled
    assert kept + len(splits.rejected) == len(items)


def test_one_labelled_file_gives_every_split_prompts_the_unlabelled_one_too() -> None:
    items = rows("auto", *(f"question {number}" for number in range(1000)))
    splits = split_up(*items)
    counts = splits.counts
    assert abs(counts["unlabelled"] - counts["train"]) < 100
    # Their answers are not trained on, and the verifier has them.
    assert not ids(splits, "train") & ids(splits, "unlabelled")
    assert all(prompt.reference == {"answer": "4"} for prompt in splits.unlabelled)
    # Prompts of their own, from another source, leave the labelled rows whole.
    with_own = split_up(*items, *rows("unlabelled", "mine"))
    assert with_own.counts["unlabelled"] == 1
    assert with_own.counts["train"] == counts["train"] + counts["unlabelled"]
    # Nobody's evaluation rows move.
    for name in ("dev", "validation", "test"):
        assert ids(with_own, name) == ids(splits, name)


@pytest.mark.parametrize("number", range(5, 16))
def test_few_rows_are_divided_so_that_each_split_has_a_prompt(number: int) -> None:
    for seed in range(5):
        counts = split_up(
            *rows("auto", *(f"q{n}" for n in range(number))), seed=seed
        ).counts
        names = ("train", "dev", "validation", "test", "unlabelled")
        assert min(counts[name] for name in names) >= 1
        assert counts["dev_prompts"] == counts["dev"]
        assert sum(counts.values()) - counts["dev_prompts"] == number


def test_the_share_of_unlabelled_prompts_can_be_chosen_and_switched_off() -> None:
    items = rows("auto", *(f"question {number}" for number in range(1000)))
    most = Fractions(train=0.2, unlabelled=0.5, dev=0.1, validation=0.1, test=0.1)
    assert 450 < make_splits(items, most, 0).counts["unlabelled"] < 550
    again = make_splits(items, Fractions(unlabelled=0.0), 0)
    assert ids(again, "unlabelled") == ids(again, "train")
    with pytest.raises(ValueError, match="train \\+ unlabelled \\+ dev"):
        Fractions(unlabelled=0.5)


def test_a_row_that_its_verifier_refuses_is_taught_and_not_asked() -> None:
    items: list[tuple[Target, Example]] = [
        ("auto", row(f"q{number}", "no number", "numeric" if number % 2 else "exact"))
        for number in range(200)
    ]
    splits = split_up(*items)
    assert all(prompt.verifier == "exact" for prompt in splits.unlabelled)
    assert set(splits.rejected_counts) == {"unverifiable"}
    assert splits.counts["train"] > 2 * splits.counts["unlabelled"]
