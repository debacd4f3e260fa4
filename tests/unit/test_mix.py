"""The shares of a mix hold whatever the counts are."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.contracts.rows import TrainingRow, prompt_id
from components.select.mix import accumulate, weigh
from components.select.scored_samples import row_key


def rows(count: int, round_number: int, first: int = 0) -> list[TrainingRow]:
    return [
        TrainingRow(
            id=f"{round_number}-{n}",
            prompt=f"question {n}",
            completion=f"answer {n}",
            round=round_number,
            source="self" if round_number else "labelled",
        )
        for n in range(first, first + count)
    ]


def mixed(
    labelled: list[TrainingRow],
    older: list[TrainingRow],
    newest: list[TrainingRow],
    labelled_share: float | None = 0.5,
    newest_share: float = 0.5,
) -> list[TrainingRow]:
    return list(
        weigh(
            labelled,
            older,
            newest,
            labelled_share=labelled_share,
            newest_share=newest_share,
        )
    )


def accumulated(
    older: list[TrainingRow],
    newest: list[TrainingRow],
    evaluation_ids: frozenset[str] = frozenset(),
    labelled_keys: frozenset[int] = frozenset(),
) -> tuple[list[TrainingRow], dict[str, int]]:
    left_out = Counter[str]()
    stay = accumulate(
        older,
        newest,
        evaluation_ids=evaluation_ids,
        labelled_keys=labelled_keys,
        left_out=left_out,
    )
    return list(stay), left_out


def share(mix: list[TrainingRow], *rounds: int) -> float:
    return sum(row.weight for row in mix if row.round in rounds) / sum(
        row.weight for row in mix
    )


@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(1, 50),
    st.floats(0.0, 1.0),
    st.floats(0.01, 0.99),
)
def test_each_group_has_its_share_and_weights_sum_to_the_number_of_rows(
    labelled: int, older: int, newest: int, labelled_share: float, newest_share: float
) -> None:
    mix = mixed(
        rows(labelled, 0), rows(older, 1), rows(newest, 2), labelled_share, newest_share
    )
    assert sum(row.weight for row in mix) == pytest.approx(len(mix))
    assert share(mix, 0) == pytest.approx(labelled_share)
    assert share(mix, 2) == pytest.approx((1 - labelled_share) * newest_share)


def test_a_natural_union_draws_every_row_equally_often_but_for_its_own_weight() -> None:
    newest = [
        row.model_copy(update={"weight": 1.0 + row.id.endswith("3")})
        for row in rows(4, 2)
    ]
    mix = mixed(rows(10, 0), rows(6, 1), newest, labelled_share=None)
    assert share(mix, 0) == pytest.approx(10 / 20)
    assert share(mix, 1) == pytest.approx(6 / 20)
    assert [row.weight for row in mix if row.round < 2] == pytest.approx([1.0] * 16)
    assert sorted(row.weight for row in mix if row.round == 2) == pytest.approx(
        [0.8, 0.8, 0.8, 1.6]
    )


@pytest.mark.parametrize("labelled_share", [0.0, 0.5, 1.0])
def test_without_labelled_rows_their_share_goes_to_the_others(
    labelled_share: float,
) -> None:
    mix = mixed([], rows(10, 1), rows(30, 2), labelled_share, 0.25)
    assert sum(row.weight for row in mix) == pytest.approx(40)
    assert share(mix, 2) == pytest.approx(0.25)


def test_without_older_rows_the_newest_take_all_that_is_not_labelled() -> None:
    mix = mixed(rows(10, 0), [], rows(40, 1), newest_share=0.3)
    assert share(mix, 1) == pytest.approx(0.5)


def test_without_newest_rows_the_older_take_all_that_is_not_labelled() -> None:
    mix = mixed(rows(10, 0), rows(40, 1), [], newest_share=0.3)
    assert share(mix, 1) == pytest.approx(0.5)
    assert sum(row.weight for row in mix) == pytest.approx(50)


def test_without_samples_or_without_labelled_rows_the_others_take_it_all() -> None:
    assert [row.weight for row in mixed(rows(3, 0), [], [])] == [1.0] * 3
    assert [row.weight for row in mixed([], [], rows(3, 1))] == [1.0] * 3


def test_a_row_found_again_counts_as_the_newest_rounds() -> None:
    older, dropped = accumulated(rows(10, 1), rows(4, 2))
    assert [row.id for row in older] == [f"1-{n}" for n in range(4, 10)]
    assert dropped == {"superseded": 4}


def test_rows_of_earlier_rounds_come_once_and_never_from_evaluation_or_labelled_data() -> (
    None
):
    older, dropped = accumulated(
        [*rows(5, 2), *rows(5, 1)],
        [],
        evaluation_ids=frozenset({prompt_id("question 0")}),
        labelled_keys=frozenset({row_key("question 1", "answer 1")}),
    )
    assert [row.id for row in older] == ["2-2", "2-3", "2-4"]
    assert dropped == {"in_evaluation": 2, "duplicate": 2, "superseded": 3}


def test_rows_keep_their_weights_relative_to_their_group() -> None:
    """Half of the draws go to the newest round, three quarters of them to the row that counts three
    times as much."""
    heavy, light = (
        row.model_copy(update={"weight": weight})
        for row, weight in zip(rows(2, 1), (3.0, 1.0), strict=True)
    )
    mix = mixed(rows(4, 0), [], [heavy, light])
    assert [row.weight for row in mix[-2:]] == pytest.approx([2.25, 0.75])
    assert sum(row.weight for row in mix) == pytest.approx(6)


def test_nothing_is_mixed_of_nothing() -> None:
    assert mixed([], [], [], labelled_share=None) == []
    assert mixed([], [], []) == []
