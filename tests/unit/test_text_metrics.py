"""Verifiers that grade how near a text is to its references: chrF, BLEU, ROUGE-L, error rates."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from components.cli.needed_packages import require_packages
from components.contracts.recipe import DataSource, Fractions
from components.contracts.rows import Check, Dropped, Prompt, Result, read_rows
from components.contracts.summaries import EvaluateSummary
from components.contracts.verifier_names import TEXT_METRICS
from components.errors import UserError
from components.prepare.examples import Example
from components.prepare.outlook import check_references
from components.prepare.readers import read_source
from components.prepare.splits import Assigned, Splits, make_splits
from components.runtime.context import Context
from components.runtime.receipts import fetch, read_summary
from components.verifiers import (
    MAX_ANSWER_CHARACTERS,
    prompt_problem,
    reference_answer,
    verdict_of,
    verify,
    vote_keys,
)
from components.verifiers.text_metrics import MAX_REFERENCE_CHARACTERS
from tests.unit.crafted import recipe_of
from tests.unit.measuring import begun, evaluate, human, model
from tests.unit.selections import answers, select, with_settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
OBAMA = "Die Beziehung zwischen Obama und Netanjahu ist nicht gerade freundlich."
OBAMA_REFERENCE = (
    "Das Verhältnis zwischen Obama und Netanyahu ist nicht gerade freundschaftlich."
)
GUIDE = (
    "It is a guide to action which ensures that the military always obeys the commands "
    "of the party"
)
GUIDE_REFERENCES = (
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is the guiding principle which guarantees the military forces always being under the "
    "command of the Party",
    "It is the practical guide for the army always to heed the directions of the party",
)


def ask(metric: str, *references: str, threshold: float = 0.5) -> Prompt:
    several = {"answers": list(references)} if len(references) > 1 else {}
    return Prompt(
        id="0123",
        text="Say it.",
        verifier=metric,
        check=Check(threshold=threshold),
        reference={"answer": references[0], **several},
    )


def score(metric: str, text: str, *references: str) -> float:
    return verdict_of(ask(metric, *references), text).score


def chrf_by_hand(text: str, reference: str) -> float:
    """F2 of the mean precision and the mean recall of character n-grams, as Popović defines it."""
    text, reference = text.replace(" ", ""), reference.replace(" ", "")
    precisions: list[float] = []
    recalls: list[float] = []
    for order in range(1, 7):
        ours, theirs = (
            Counter(
                line[start : start + order] for start in range(len(line) + 1 - order)
            )
            for line in (text, reference)
        )
        common = (ours & theirs).total()
        if ours and theirs:
            precisions.append(common / ours.total())
            recalls.append(common / theirs.total())
    precision, recall = math.fsum(precisions) / 6, math.fsum(recalls) / 6
    return 5 * precision * recall / (4 * precision + recall)


@pytest.mark.parametrize(
    ("metric", "text", "references", "expected"),
    [
        # sacrebleu's own cases of effective order.
        ("chrf", "a", ["a"], 1.0),
        ("chrf", "a b c", ["abc"], 1.0),
        ("chrf", "aa", ["ab"], 0.25),
        ("chrf", "b", ["c"], 0.0),
        ("bleu", "test", ["a test"], math.exp(-1)),
        ("bleu", "a test", ["a test"], 1.0),
        # By hand: three of four words, two of three pairs, one of two triples, no quadruple.
        ("bleu", "this is a fest", ["this is a test"], (3 / 4 * 2 / 3 / 2 / 2) ** 0.25),
        # Papineni's examples: clipped counts, and three references, whose value NLTK's page gives.
        (
            "bleu",
            "the the the the the the the",
            ["the cat is on the mat", "there is a cat on the mat"],
            (2 / 7 / (2 * 6) / (4 * 5) / (8 * 4)) ** 0.25,
        ),
        ("bleu", GUIDE, GUIDE_REFERENCES, 0.5045666840058485),
        # Lin's example, and rouge-score's own.
        ("rouge_l", "police kill the gunman", ["police killed the gunman"], 3 / 4),
        ("rouge_l", "the gunman kill police", ["police killed the gunman"], 2 / 4),
        ("rouge_l", "testing two", ["testing one two"], 4 / 5),
        ("rouge_l", "/", ["w1 w2 w3"], 0.0),
        # The table of Morris et al. 2004, and jiwer's own.
        ("wer", "X", ["X"], 1.0),
        ("wer", "X X Y Y", ["X"], 0.0),
        ("wer", "X Z", ["X Y X"], 1 / 3),
        ("wer", "Y", ["X"], 0.0),
        ("wer", "hello duck", ["hello world"], 1 / 2),
        ("wer", "This test", ["This is a test"], 1 / 2),
        ("cer", "sitting", ["kitten"], 1 / 2),
    ],
)
def test_scores_are_those_that_papers_and_libraries_publish(
    metric: str, text: str, references: list[str], expected: float
) -> None:
    assert score(metric, text, *references) == pytest.approx(expected, abs=1e-9)


def test_chrf_is_the_mean_of_six_orders_as_it_is_defined() -> None:
    expected = chrf_by_hand(OBAMA, OBAMA_REFERENCE)
    assert 0.5 < expected < 0.7
    assert score("chrf", OBAMA, OBAMA_REFERENCE) == pytest.approx(expected, abs=1e-9)
    assert (
        verdict_of(ask("chrf", OBAMA_REFERENCE), OBAMA).reason == f"chrf {expected:.3f}"
    )


def test_rouge_l_is_that_of_rouge_score_where_that_knows_the_letters() -> None:
    texts = [
        *GUIDE_REFERENCES,
        GUIDE,
        "The quick brown fox jumps over the lazy dog",
        "The quick brown dog jumps on the log.",
        "In 2024, prices rose by 3.5%; wages (U.S.) didn't.",
        "Prices in the U.S. rose 3.5 % in 2024 - wages did not!",
        "snake_case, e-mail & two\nlines",
    ]
    scorer = RougeScorer(["rougeL"])
    for text, reference in product(texts, repeat=2):
        expected = scorer.score(reference, text)["rougeL"].fmeasure
        assert score("rouge_l", text, reference) == pytest.approx(expected), text


def test_the_page_names_the_settings_that_are_computed() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for metric in (CHRF(), BLEU(effective_order=True)):
        metric.sentence_score("a", ["a"])
        metric.num_refs = 1
        version = f"|version:{metric.get_signature().info['version']}"
        signature = str(metric.get_signature())
        assert signature.endswith(version)
        assert f"`{signature}`" in page


def test_of_several_references_the_nearest_counts() -> None:
    near, far = "the cat sat on the mat", "ein ganz anderer Satz"
    for metric in TEXT_METRICS:
        assert score(metric, near, far, near) == 1.0
        assert score(metric, near, far) < 0.5
        assert score(metric, near, near, far) == 1.0
        assert score(metric, near, near, "the cat sat") == 1.0


@pytest.mark.parametrize("metric", TEXT_METRICS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "\ufeff\u200b",
        "\ud800 lone half",
        "nul \0 and \x1b[0m",
        "👩‍👩‍👧 🇩🇪 e" + "\u0301" * 5_000,
        "<think>never closed",
        "<answer></answer>",
        "ش" * 3_000 + " مرحبا",
        "&lt;skipped&gt; <skipped> -\n" * 100,
        "...!?",
        "a " * (MAX_ANSWER_CHARACTERS // 2),
    ],
)
def test_no_text_raises_or_scores_out_of_range(metric: str, text: str) -> None:
    for references in (("the cat",), ("猫", "кот сидит"), ("a " * 50_000,)):
        assert 0.0 <= score(metric, text, *references) <= 1.0
    assert verdict_of(ask(metric, "the cat"), "").reason == "no answer"
    too_long = "a " * MAX_ANSWER_CHARACTERS
    assert score(metric, too_long, "a a a") == 0.0


@pytest.mark.parametrize("metric", TEXT_METRICS)
def test_unicode_forms_white_space_and_thoughts_make_no_difference(metric: str) -> None:
    reference = "Café déjà vu, naïve œuvre"
    decomposed = "Cafe\u0301 de\u0301ja\u0300  vu,\u00a0nai\u0308ve\n\u200bœuvre"
    assert score(metric, decomposed, reference) == 1.0
    assert score(metric, f"<think>Hm, the</think> {reference}", reference) == 1.0
    assert score(metric, f"So: <answer>{reference}</answer>.", reference) == 1.0
    prompt = ask(metric, reference)
    assert vote_keys(prompt, [decomposed, "other"]) == [reference, "other"]
    assert reference_answer(prompt) == reference


def test_other_scripts_are_graded_too() -> None:
    russian, chinese = "Кошка сидела на ковре", "猫坐在垫子上"
    assert score("rouge_l", "Кошка лежала на ковре.", russian) == 3 / 4
    assert score("rouge_l", "猫躺在垫子上", chinese) == pytest.approx(5 / 6)
    assert score("cer", "猫躺在垫子上", chinese) == pytest.approx(5 / 6)
    assert 0.2 < score("chrf", "猫躺在垫子上", chinese) < 0.9
    # Marks are part of their words.
    assert score("rouge_l", "हिन्दी में", "हिन्दी से") == 1 / 2


def test_a_tokenizer_keeps_no_texts() -> None:
    score("bleu", "a short text", "another text")
    assert Tokenizer13a.__call__.cache_info().currsize == 0


def test_an_answer_is_right_from_the_threshold_on() -> None:
    for threshold, is_right in ((0.5, True), (0.51, False)):
        prompt = ask("wer", "hello world", threshold=threshold)
        assert verify(prompt, "hello duck") == is_right
    samples = answers(ask("wer", "a b c d", threshold=0.75), "a b c d", "a b c", "a b")
    kept, dropped = select(samples, with_settings(verifier=True))
    assert [one.text for one in kept] == ["a b c d", "a b c"]
    assert [one.detail for one in dropped] == ["wer refused 'a b': wer 0.500"]


def source_of(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> DataSource:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return DataSource.model_validate({"uri": str(path), "verifier": "chrf", **settings})


def examples_of(source: DataSource) -> list[Example | Dropped]:
    return list(read_source(Path(source.uri), source))


def test_a_row_may_have_several_references(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "dog", "completion": ["Hund", "Köter", "Hund"]},
        {"prompt": "cat", "completion": "Katze"},
        {"prompt": "cow", "completion": ["Kuh"]},
        {"prompt": "year", "completion": [2024, "24"]},
        {"prompt": "empty", "completion": ["Pferd", " "]},
        {"prompt": "none", "completion": []},
        {"prompt": "mixed", "completion": ["Pferd", None]},
        {"prompt": "deep", "completion": [["Pferd"]]},
    ]
    source = source_of(tmp_path, rows)
    dog, cat, cow, year, *rejected = examples_of(source)
    assert isinstance(dog, Example)
    assert dog.completion == "Hund"
    assert dog.as_prompt().reference["answers"] == ["Hund", "Köter", "Hund"]
    assert verdict_of(dog.as_prompt(), "Köter").score == 1.0
    assert isinstance(cat, Example)
    assert cat.reference == {"answer": "Katze"}
    assert isinstance(cow, Example)
    assert isinstance(year, Example)
    assert (year.completion, year.reference["answers"]) == ("2024", ["2024", "24"])
    reasons = [row.reason for row in rejected if isinstance(row, Dropped)]
    assert reasons == ["empty", "no_completion", "empty", "wrong_type"]
    # Other verifiers know one reference, as before.
    plain = source_of(tmp_path, rows, verifier="exact")
    first, *_ = examples_of(plain)
    assert isinstance(first, Dropped)
    assert first.reason == "wrong_type"
    turns = [{"role": "assistant", "content": "Hund"}]
    (chat,) = examples_of(source_of(tmp_path, [{"prompt": "dog", "completion": turns}]))
    assert isinstance(chat, Example)
    assert (chat.completion, chat.reference) == ("Hund", {"answer": "Hund"})
    nested = [{"q": "dog", "doc": {"de": ["Hund", "Köter"]}}]
    names = {"prompt_field": "q", "completion_field": "doc.de"}
    (inner,) = examples_of(source_of(tmp_path, nested, **names))
    assert isinstance(inner, Example)
    assert inner.reference["answers"] == ["Hund", "Köter"]


def splits_of(source: DataSource) -> Splits:
    items: list[Assigned | Dropped] = []
    for item in examples_of(source):
        items.append(item if isinstance(item, Dropped) else ("validation", item))
    for split in ("train", "test"):
        taught = Example(split, "a", verifier="exact", reference={"answer": "a"})
        items.append((split, taught))
    return make_splits(items, Fractions(), 0)


def test_references_that_nothing_can_be_compared_with_are_rejected(
    tmp_path: Path,
) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "points", "completion": "..."},
        {"prompt": "unseen", "completion": "\u200b"},
        {"prompt": "long", "completion": ["a " * MAX_REFERENCE_CHARACTERS, "a"]},
        {"prompt": "dog", "completion": "Hund"},
    ]
    rouge = splits_of(source_of(tmp_path, rows, verifier="rouge_l"))
    assert [row.detail.partition(": ")[2] for row in rouge.rejected] == [
        "verifier rouge_l: no reference has a word",
        "verifier rouge_l: no reference has a word",
        "verifier rouge_l: the references have 200000 characters, more than 100000",
    ]
    assert [prompt.text for prompt in rouge.validation] == ["dog"]
    chrf = splits_of(source_of(tmp_path, rows))
    assert sorted(prompt.text for prompt in chrf.validation) == ["dog", "points"]
    # A question without an answer is for the split `unlabelled` to judge.
    assert prompt_problem(Prompt(id="1", text="Dog?", verifier="wer")) == ""


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, 45, "high", math.nan])
def test_a_threshold_out_of_range_is_refused(threshold: object) -> None:
    with pytest.raises(ValidationError, match="threshold"):
        DataSource.model_validate(
            {"uri": "rows.csv", "verifier": "bleu", "threshold": threshold}
        )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("chrF", "chrf"), ("rougeL", "rouge_l"), ("BLEU", "bleu"), ("WER", "wer")],
)
def test_a_name_spelled_otherwise_is_told_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValidationError, match=f"Did you mean '{nearest}'"):
        DataSource.model_validate({"uri": "rows.csv", "verifier": name})


@pytest.mark.parametrize(
    ("metric", "package"),
    [
        ("chrf", "sacrebleu"),
        ("bleu", "sacrebleu"),
        ("rouge_l", "rapidfuzz"),
        ("wer", "jiwer"),
        ("cer", "jiwer"),
    ],
)
def test_a_missing_package_is_told_before_any_task(
    metric: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [{"uri": "rows.csv", "verifier": metric}]
    recipe = recipe_of(data={"sources": sources})
    require_packages(recipe)
    # As Python sees a package that is not installed.
    monkeypatch.setitem(sys.modules, package, None)
    words = f"verifier {metric} needs the package {package}, .*: pip install {package}"
    with pytest.raises(UserError, match=words):
        require_packages(recipe)
    with pytest.raises(UserError, match=words):
        verify(ask(metric, "a"), "a")
    require_packages(recipe_of())


@pytest.mark.process
def test_goal_and_gate_take_the_mean_of_the_scores(context: Context) -> None:
    goal = {"goal": {"metric": "mean_score", "threshold": 0.4}}
    recipe = recipe_of(decide=goal, generate={"max_new_tokens": 6})
    prompts = [
        Prompt(
            id=f"p{number}",
            text=f"{number}+{number}=",
            verifier="cer",
            check=Check(threshold=0.2),
            reference={"answer": str(2 * number)},
        )
        for number in range(40)
    ]
    splits: dict[str, Any] = {
        "validation": prompts[:20],
        "test": prompts[20:],
        "retention": [human(number) for number in range(4)],
    }
    check_references(recipe, {"validation": prompts[:20], "test": prompts[20:]})
    receipt = evaluate(context, begun(context, recipe, **splits), model(context, 0))
    rows = list(read_rows(fetch(context, receipt, "results.jsonl"), Result))
    by_id = {prompt.id: prompt for prompt in prompts}
    expected = [verdict_of(by_id[row.prompt_id], row.text).score for row in rows]
    assert [row.score for row in rows] == expected
    assert [row.correct for row in rows] == [one >= 0.2 for one in expected]
    measured = read_summary(receipt, EvaluateSummary).measured["validation"][""]
    asked = [row.score or 0.0 for row in rows if row.split == "validation"]
    assert measured.value == pytest.approx(math.fsum(asked) / len(asked))
