"""Raw text as a campaign of its own: blocks, splits without neighbours, losses that are compared."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.contracts.recipe import (
    DataSection,
    DataSource,
    DecideSection,
    Fractions,
    Recipe,
    TextBlocks,
)
from components.contracts.recipe_file import parse_recipe
from components.contracts.rows import (
    Beginning,
    Dropped,
    Prompt,
    Result,
    TrainingRow,
    read_rows,
)
from components.contracts.summaries import GenerateSummary
from components.decide.gate import compare, decide
from components.errors import Corrupt, UserError
from components.family_means import LEAST_FAMILIES, family_mean_test
from components.generate.step import GenerateInputs, run
from components.measures import Scores, measure_of
from components.modeling.encoding import windows
from components.prepare.outlook import check_references, check_texts, outlook_of
from components.prepare.readers import read_source
from components.prepare.splits import Assigned, Splits, make_splits
from components.prepare.text_blocks import in_blocks
from components.runtime.context import Context
from components.runtime.receipts import fetch, read_summary
from components.statistics import student_upper
from tests.unit import generations
from tests.unit.tiny import tiny_model

PARAGRAPHS = [
    f"Paragraph {number} tells of {number * 7} ships and a harbour."
    for number in range(900)
]
SIZES = TextBlocks(block=200, beginning=40, stretch=4)
FRACTIONS = Fractions()
SECTION = DecideSection.model_validate(
    {"goal": {"metric": "perplexity", "threshold": 5}}
)


def section_of(
    path: Path, split: str = "auto", fractions: Fractions = FRACTIONS
) -> DataSection:
    source = DataSource.model_validate({"uri": str(path), "split": split})
    return DataSection(sources=(source,), text=SIZES, fractions=fractions)


def blocks_of(
    folder: Path, text: str, split: str = "auto", fractions: Fractions = FRACTIONS
) -> list[Assigned | Dropped]:
    path = folder / f"{split}.txt"
    path.write_text(text, encoding="utf-8")
    section = section_of(path, split, fractions)
    return list(in_blocks(read_items(folder, split), section, 0))


def read_items(folder: Path, split: str) -> list[Assigned | Dropped]:
    path = folder / f"{split}.txt"
    (source,) = section_of(path, split).sources
    items: list[Assigned | Dropped] = []
    for item in read_source(path, source):
        items.append(item if isinstance(item, Dropped) else (source.split, item))
    return items


def splits_of(items: list[Assigned | Dropped], folder: Path) -> Splits:
    return make_splits(items, section_of(folder).fractions, 0)


def test_one_file_of_text_makes_every_split_and_no_block_has_a_neighbour_in_another(
    tmp_path: Path,
) -> None:
    text = "\n\n".join(PARAGRAPHS)
    items = blocks_of(tmp_path, text)
    splits = splits_of(items, tmp_path)
    total = sum(
        len(getattr(splits, name)) for name in ("train", "dev", "validation", "test")
    )
    for name, share in (("validation", 0.1), ("test", 0.1), ("dev", 0.1)):
        assert abs(len(getattr(splits, name)) / total - share) < 0.05
    # None of it is taught where its share is 0, whatever rounding leaves over.
    untaught = Fractions(train=0.0, dev=0.25, validation=0.25, test=0.5)
    pieces = blocks_of(tmp_path, text, fractions=untaught)
    assert {item[0] for item in pieces if not isinstance(item, Dropped)} == {
        "dev",
        "validation",
        "test",
    }
    # An unlabelled text beside it is a beginning to go on with, and no question.
    beginning = blocks_of(tmp_path, "The harbour was empty that day.", "unlabelled")
    assert [item[0] for item in beginning if not isinstance(item, Dropped)] == [
        "unlabelled"
    ]
    both = [*read_items(tmp_path, "auto"), *read_items(tmp_path, "unlabelled")]
    (prompt,) = splits_of(
        list(in_blocks(both, section_of(tmp_path), 0)), tmp_path
    ).unlabelled
    assert prompt.asked == Beginning(text="The harbour was empty that day.")
    # In the order of the text: where a split follows another, a block between them is left out.
    places: dict[int, str] = {}
    for name in ("train", "dev"):
        for row in getattr(splits, name):
            places[text.index(row.completion)] = name
    for name in ("validation", "test"):
        for prompt in getattr(splits, name):
            assert prompt.is_text
            assert 0 < len(prompt.text) <= SIZES.beginning
            places[text.index(prompt.text + prompt.reference["answer"])] = name
    lengths = {
        text.index(row.completion): len(row.completion)
        for row in (*splits.train, *splits.dev)
    } | {
        text.index(whole): len(whole)
        for prompt in (*splits.validation, *splits.test)
        for whole in [prompt.text + prompt.reference["answer"]]
    }
    ordered = sorted(places)
    neighbours = [
        (first, second)
        for first, second in itertools.pairwise(ordered)
        if second - first - lengths[first] < 20
    ]
    assert len(neighbours) > 100
    assert all(places[first] == places[second] for first, second in neighbours)
    assert splits.rejected_counts["between_splits"] < 0.25 * total
    # The beginnings of what is taught are continued; the model is not asked what is measured.
    assert {prompt.id for prompt in splits.unlabelled} == {
        row.id[:16] for row in splits.train
    }
    assert {prompt.id for prompt in splits.dev_prompts} == {
        row.id[:16] for row in splits.dev
    }


def test_blocks_hold_the_whole_text_and_end_at_blanks_and_a_document_ends_once(
    tmp_path: Path,
) -> None:
    text = "\n\n".join(PARAGRAPHS[:60])
    items = blocks_of(tmp_path, text, "train")
    examples = [item[1] for item in items if not isinstance(item, Dropped)]
    assert "".join(example.completion or "" for example in examples) == text
    rows = [example.as_training_row() for example in examples]
    assert [row.goes_on for row in rows] == [*[True] * (len(rows) - 1), False]
    assert all(not row.completion[-1].isspace() for row in rows)
    assert len({example.as_prompt().stretch for example in examples}) == math.ceil(
        len(rows) / 4
    )


def test_text_beside_questions_stays_as_it_is(tmp_path: Path) -> None:
    rows = list(read_source(_file(tmp_path), _question_source(tmp_path)))
    items: list[Assigned | Dropped] = [
        ("auto", row) for row in rows if not isinstance(row, Dropped)
    ]
    assert list(in_blocks(items, section_of(tmp_path), 0)) == items


def _file(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text('{"text": "a text"}\n{"prompt": "two?", "completion": "2"}\n')
    return path


def _question_source(folder: Path) -> DataSource:
    return DataSource(uri=str(folder / "rows.jsonl"))


def results(losses: list[float], tokens: int = 50, stretch: int = 4) -> list[Result]:
    return [
        Result(
            prompt_id=f"{index:04d}",
            split="validation",
            correct=False,
            text="",
            finished=True,
            num_tokens=9,
            loss=loss,
            loss_tokens=tokens,
            stretch=str(index // stretch),
        )
        for index, loss in enumerate(losses)
    ]


def test_a_lower_loss_is_promoted_by_stretches_and_told_as_perplexity() -> None:
    dice = np.random.default_rng(1)
    old = 3.0 + 0.3 * dice.standard_normal(80)
    new = old - 0.05 + 0.02 * dice.standard_normal(80)
    comparison = compare(results(list(old)), results(list(new)), SECTION, 0.0125)
    ruling = decide(comparison)
    assert ruling.promote
    assert "in 20 families" in ruling.reason
    assert "perplexity -4." in ruling.reason or "perplexity -5." in ruling.reason
    worse = decide(compare(results(list(new)), results(list(old)), SECTION, 0.0125))
    assert not worse.promote
    # Eighty blocks of one stretch are one result, and five are too few to know their spread.
    few = (LEAST_FAMILIES - 1) * 4
    alone = compare(results(list(old[:few])), results(list(new[:few])), SECTION, 0.0125)
    assert alone.p_value == 1.0
    with pytest.raises(Corrupt, match="tokens cannot be compared"):
        compare(results(list(old)), results(list(new), tokens=49), SECTION, 0.0125)


def test_the_test_of_losses_holds_its_level_where_neighbouring_blocks_resemble_each_other() -> (
    None
):
    dice = np.random.default_rng(2)
    trials, stretches, size = 2000, 15, 8
    # Equal models on average: what differs is shared within a stretch, and its spread is not even.
    spread = dice.uniform(0.2, 1.0, (trials, stretches, 1))
    shared = spread * dice.standard_normal((trials, stretches, 1))
    gains = (shared + 0.5 * dice.standard_normal((trials, stretches, size))).reshape(
        trials, -1
    )
    families = [block // size for block in range(stretches * size)]
    blocks = list(range(stretches * size))
    false = sum(
        family_mean_test(list(row), families, 0.0).p_value <= 0.0125 for row in gains
    )
    naive = sum(
        family_mean_test(list(row), blocks, 0.0).p_value <= 0.0125 for row in gains
    )
    assert false / trials <= 0.0175
    assert naive / trials > 0.08


def test_the_test_of_losses_holds_levels_above_those_that_students_t_holds() -> None:
    """Three families of twenty have all of the spread: Student's t takes 0.128 for 0.1."""
    dice = np.random.default_rng(3)
    gains = np.zeros((4000, 20))
    gains[:, :3] = dice.standard_normal((4000, 3))
    families = list(range(20))
    p_values = [family_mean_test(list(row), families, 0.0).p_value for row in gains]
    assert np.mean(np.array(p_values) <= 0.1) <= 0.1
    assert np.mean(np.array(p_values) <= 0.2) <= 0.2
    # A clear gain has the p-value of Student's t, as far as floats tell it.
    clear = family_mean_test([1.0, 1.1, 0.9, 1.2, 1.0, 0.8], families[:6], 0.0).p_value
    assert clear == pytest.approx(student_upper(17.3205, 5), rel=1e-3)
    almost = family_mean_test(
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0 + 1e-9], families[:6], 0.0
    ).p_value
    assert 0 < almost < 1e-30


def test_families_that_all_gain_the_same_prove_nothing() -> None:
    """Their mean, 0.09999999999999999, is not quite their gain."""
    assert family_mean_test([0.1] * 6, list(range(6)), 0.0125).p_value == 1.0


def test_perplexity_is_per_token_with_an_interval_over_stretches() -> None:
    rows = results([1.0, 3.0] * 20, tokens=10)
    scores = Scores.of(rows, "perplexity")
    assert scores.value() == pytest.approx(math.exp(2.0))
    low, high = scores.interval()
    assert low == pytest.approx(high) == pytest.approx(scores.value())
    uneven = Scores.of(results([1.0] * 20 + [3.0] * 20, tokens=10), "perplexity")
    low, high = uneven.interval()
    assert low < 0.7 * uneven.value() < 1.4 * uneven.value() < high
    measure = measure_of("perplexity")
    assert measure.reaches(4.9, 5.0)
    assert measure.reaches(5.0, 5.0)
    assert not measure.reaches(5.1, 5.0)
    assert measure.improves(4.0, 5.0)


def test_the_beginning_of_a_text_bears_no_loss_and_nothing_ends_a_text_that_goes_on() -> (
    None
):
    _, codec = tiny_model()
    whole, masked = codec.text_ids("", "12 34 56", goes_on=True)
    assert masked == 1
    assert not set(whole) & set(codec.end_ids)
    parts, num_masked = codec.text_ids("12 34", " 56", goes_on=False)
    assert parts[:-1] == whole
    assert parts[-1] == codec.end_ids[0]
    assert codec.text(parts[num_masked:-1]) == " 56"
    cut = windows(parts, num_masked, 4)
    scored = [token for window in cut for token in window.ids[window.num_masked :]]
    assert scored == parts[num_masked:]


def text_rows(count: int) -> list[TrainingRow]:
    return [
        TrainingRow(
            id=f"text-{number}",
            prompt="",
            completion=f"{number} " + "12 34 56 " * 30,
            source="labelled",
            round=0,
        )
        for number in range(count)
    ]


def test_a_round_goes_on_with_taught_texts_or_writes_freely(context: Context) -> None:
    free = {"verifier": False}
    common: dict[str, Any] = {
        "texts": text_rows(6),
        "select": free,
        "prompts_per_round": 4,
    }
    begun_texts = generations.begun(context, **common | {"from": "text"})
    receipt = run(GenerateInputs(begun_texts, 0), context)
    prompts = list(read_rows(fetch(context, receipt, "prompts.jsonl"), Prompt))
    assert len(prompts) == 4
    whole = [row.completion for row in text_rows(6)]
    for prompt in prompts:
        assert prompt.is_text
        assert any(text.startswith(prompt.text) for text in whole)
        assert 100 < len(prompt.text) <= 160
    # A piece of text may stop anywhere: nothing counts as cut off.
    assert read_summary(receipt, GenerateSummary).truncated == 0
    nothing = generations.begun(context, **common | {"from": "nothing"})
    receipt = run(GenerateInputs(nothing, 0), context)
    samples = generations.samples_of(context, receipt)
    assert len(samples) == 4 * 3
    assert len({sample.text for sample in samples.values()}) > 6
    with pytest.raises(
        UserError, match=r"generate.from nothing needs `select.verifier: false`"
    ):
        generations.begun(context, **common | {"from": "nothing", "select": {}})


def recipe_of_text(**sections: Any) -> Recipe:
    document = {
        "name": "r",
        "data": {"sources": [{"uri": "a.txt"}]},
        "decide": {"goal": {"metric": "perplexity", "threshold": 20}},
        "select": {"verifier": False, "min_accepted": 1},
        **sections,
    }
    return Recipe.model_validate(document)


def text_prompts(count: int, stretch: int = 4) -> list[Prompt]:
    return [
        Prompt(
            id=str(number),
            text="once",
            verifier="exact",
            reference={"answer": " upon a time"},
            is_text=True,
            stretch=str(number // stretch),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decide": {"goal": {"threshold": 0.9}}},
            r"decide.goal: .*use `metric: perplexity`",
        ),
        ({"select": {"verifier": True}}, r"select.verifier: .*set `verifier: false`"),
        (
            {"generate": {"engine": "openai", "endpoint": {"model": "m"}}},
            r"generate.engine: .*leave out engine openai",
        ),
    ],
)
def test_a_recipe_that_asks_for_right_answers_of_text_is_refused_before_anything_is_spent(
    changes: dict[str, Any], message: str
) -> None:
    check_texts(recipe_of_text(), text_prompts(8))
    with pytest.raises(UserError, match=message):
        check_texts(recipe_of_text(**changes), text_prompts(8))


def test_too_few_stretches_or_prompts_without_answers_are_refused_with_the_remedy() -> (
    None
):
    enough = text_prompts(4 * LEAST_FAMILIES)
    outlook = outlook_of(recipe_of_text(), enough, 100)
    assert outlook.smallest_gain is None
    assert f"{LEAST_FAMILIES} families" in outlook.in_words
    with pytest.raises(
        UserError, match=rf"never promote.*at least {LEAST_FAMILIES} .*stretch"
    ):
        outlook_of(recipe_of_text(), enough[:-4], 100)
    unanswered = Prompt(id="q", text="why?", verifier="exact")
    with pytest.raises(UserError, match="1 of 2 prompts of split test have no answer"):
        check_references(recipe_of_text(), {"test": [unanswered, enough[0]]})


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (
            {"metric": "perplexity", "threshold": 0.5},
            "decide.goal.threshold: .*1 at the least",
        ),
        (
            {"metric": "accuracy", "threshold": 20},
            "decide.goal.threshold: .*from 0 to 1",
        ),
        ({"metric": "rouge", "threshold": 1}, "decide.goal.metric"),
    ],
)
def test_a_goal_that_its_metric_cannot_have_is_named(
    goal: dict[str, Any], message: str
) -> None:
    document = recipe_of_text().model_dump(mode="json")
    with pytest.raises(UserError, match=message):
        parse_recipe({**document, "decide": {"goal": goal}})
