"""What a recipe may say: numbers that a person easily gets wrong by a factor are refused."""

from __future__ import annotations

from typing import Any

import pytest

from components.contracts.recipe_file import set_key
from components.errors import UserError
from tests.unit.crafted import recipe_of

AUGMENTED = {"word_dropout": 0.1}
SHARES = (
    "data.fractions.validation",
    "generate.top_p",
    "select.min_vote_share",
    "select.labelled_share",
    "select.newest_share",
    "select.minhash_threshold",
    "select.difficulty.replay",
    "train.warmup_share",
    "train.min_learning_rate_ratio",
    "train.dropout",
    "decide.goal.threshold",
    "decide.alpha",
    "decide.retention_margin",
)


@pytest.mark.parametrize("key", SHARES)
def test_a_share_written_as_a_percentage_is_refused_by_name(key: str) -> None:
    changes: dict[str, Any] = {
        "data": {"human": [{"uri": "file:///data.jsonl"}]},
        "decide": {"goal": {"threshold": 0.99}},
    }
    for wrong in (50, 1.01, -0.1):
        set_key(changes, key, wrong)
        with pytest.raises(UserError, match=rf"{key}: .*\(got {wrong}\)"):
            recipe_of(**changes)


ALL_BUT = {"train": 0.8, "dev": 0.1, "validation": 0.05, "test": 0.05}


@pytest.mark.parametrize(
    ("sources", "fractions", "empty"),
    [
        ([("auto", "q")], {**ALL_BUT, "validation": 0.1, "test": 0.0}, "test"),
        ([("auto", "q")], {**ALL_BUT, "validation": 0.0, "test": 0.1}, "validation"),
        ([("train", "q"), ("validation", "v")], ALL_BUT, "test"),
        ([("train", "q"), ("test", "t"), ("unlabelled", "u")], ALL_BUT, "validation"),
        (
            [("auto", "q"), ("test", "t")],
            {**ALL_BUT, "train": 0.85, "validation": 0},
            "validation",
        ),
    ],
)
def test_a_split_that_no_source_can_fill_is_told_before_any_task(
    sources: list[tuple[str, str]], fractions: dict[str, float], empty: str
) -> None:
    listed = [
        {"uri": f"file:///{name}.jsonl", "split": split} for split, name in sources
    ]
    with pytest.raises(
        UserError, match=f"nothing gives rows of split {empty}: give a source"
    ):
        recipe_of(data={"sources": listed, "fractions": fractions})


def test_splits_that_sources_name_need_no_share() -> None:
    listed = [
        {"uri": f"file:///{split}.jsonl", "split": split}
        for split in ("auto", "validation", "test")
    ]
    fractions = {"train": 0.9, "dev": 0.1, "validation": 0.0, "test": 0.0}
    recipe = recipe_of(data={"sources": listed, "fractions": fractions})
    assert recipe.data.fractions.test == 0.0


@pytest.mark.parametrize("percentage", [1, 0.5])
def test_a_retention_margin_in_per_cent_is_refused_with_its_unit(
    percentage: float,
) -> None:
    with pytest.raises(
        UserError, match=r"decide\.retention_margin.*share of tokens.*not a percent"
    ):
        recipe_of(decide={"goal": {"threshold": 0.99}, "retention_margin": percentage})


def test_a_retention_margin_of_null_is_no_bound() -> None:
    recipe = recipe_of(decide={"goal": {"threshold": 0.99}, "retention_margin": None})
    assert recipe.decide.retention_margin is None


@pytest.mark.parametrize(
    ("train", "says"),
    [
        (
            {"layers": {"trained": "inserted"}},
            "inserted needs layers to train: extra is 0",
        ),
        ({"layers": {"trained": 9}}, r"trained \(9\) > max_trained \(8\)"),
        ({"layers": {"trained": 0}}, "trained"),
        ({"layers": {"trained": "last"}}, "trained"),
        ({"layers": {"max_extra": -1}}, "max_extra"),
        ({"layers": {"min_extra": 1}}, "min_extra"),
        (
            {"layers": {"extra": 1000}},
            r"train\.layers\.extra: .*less than or equal to 128",
        ),
        (
            {"layers": {"extra": -1000}},
            r"train\.layers\.extra: .*greater than or equal to -128",
        ),
        ({"layers": {"max_extra": 129}}, r"train\.layers\.max_extra: .*equal to 128"),
        ({"layers": {"min_extra": -129}}, r"train\.layers\.min_extra: .*equal to -128"),
        ({"layers": {"extra": "4"}}, "extra"),
        # The scratch model of these tests has three layers.
        ({"layers": {"extra": 4}}, r"extra 4: the base has 3 .*set it to 3 or less"),
        (
            {"layers": {"max_extra": 128}},
            r"max_extra 128: the base has 3 .*set it to 3 or less",
        ),
        (
            {"layers": {"extra": -3}},
            r"extra -3: the base has 3 .*one has to stay.*-2 or more",
        ),
        ({"layers": {"min_extra": -9}}, r"min_extra -9: the base has 3 .*-2 or more"),
        ({"layers": {}, "lora": {}}, "layers and lora exclude each other"),
        ({"layers": {"extra": 1}, "interpolate": True}, "makes their depths differ"),
        (
            {"layers": {"max_extra": 1}, "interpolate": True},
            "makes their depths differ",
        ),
        (
            {"layers": {"min_extra": -1}, "interpolate": True},
            "makes their depths differ",
        ),
    ],
)
def test_layers_that_cannot_be_are_refused(train: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        recipe_of(train=train)


def test_as_many_layers_as_the_base_has_may_be_inserted_and_one_has_to_stay() -> None:
    for extra in (-2, 3):
        layers = recipe_of(train={"layers": {"extra": extra}}).train.layers
        assert layers is not None
        assert layers.extra == extra
    # The depth of any other base is not known here.
    elsewhere = {"source": "hf://org/name@v1"}
    assert (
        recipe_of(model=elsewhere, train={"layers": {"extra": 40}}).train.layers
        is not None
    )


def test_trained_layers_alone_go_together_with_interpolation() -> None:
    recipe = recipe_of(train={"layers": {"trained": 2}, "interpolate": True})
    assert recipe.train.layers is not None
    assert not recipe.train.layers.changes_depth


def test_noise_goes_with_objectives_that_compare_with_no_other_model() -> None:
    recipe = recipe_of(
        train={"rounds": {"augmentation": AUGMENTED}, "pretrain": {"augmentation": {}}}
    )
    assert recipe.train.rounds.augmentation is not None
    for method in ("dpo", "rpo", "kto", "raft"):
        with pytest.raises(
            UserError, match=f"method {method} compares.*unset rounds.augmentation"
        ):
            recipe_of(train={"rounds": {"augmentation": AUGMENTED}, "method": method})
        # The supervised stage has no pairs.
        recipe_of(train={"first": {"augmentation": AUGMENTED}, "method": method})


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        ({"word_dropout": 10}, "word_dropout.*less than or equal to 0.5"),
        ({"word_dropout": 0.4}, "raise max_word_dropout"),
        ({"word_drop": 0.1}, "did you mean 'word_dropout'"),
        ({"word_swap": -0.1}, "word_swap.*greater than or equal to 0"),
    ],
)
def test_wrong_noise_is_refused_by_name(noise: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        recipe_of(train={"first": {"augmentation": noise}})
