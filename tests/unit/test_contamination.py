"""Evaluation items are found in training material in whatever form, and other questions are not."""

from __future__ import annotations

import unicodedata

import pytest

from components.contamination import Overlap
from components.contracts.recipe import Fractions
from components.errors import UserError
from components.prepare.examples import Example
from components.prepare.splits import Splits, make_splits
from components.text_tokens import tokens_of
from tests.unit.crafted import ask

CHINESE = "小明有三个苹果，小红给了他五个苹果，后来他又吃掉了两个苹果，请问小明现在一共有多少个苹果？"
JAPANESE = (
    "太郎はりんごを三個持っています。花子から五個もらい、そのあと二個食べました。"
    "いま何個ありますか。"
)
THAI = "สมชายมีแอปเปิ้ลสามผล สมหญิงให้เขาอีกห้าผล แล้วเขากินไปสองผล ตอนนี้เขามีแอปเปิ้ลกี่ผล"
HINDI = "राम के पास तीन सेब हैं और श्याम ने उसे पाँच सेब दिए अब राम के पास कितने सेब हैं?"
KOREAN = "철수는 사과를 세 개 가지고 있습니다. 지금 몇 개입니까?"
ARABIC = "كم عدد التفاحات التي مع أحمد الآن؟"
ENGLISH = "What is the capital of France?"
SHORT = "2+2"
MEASURED = (
    CHINESE,
    JAPANESE,
    THAI,
    HINDI,
    KOREAN,
    ARABIC,
    ENGLISH,
    SHORT,
    "Compute 5!",
    "Sort: 3 1",
)

COPIES = [
    "what is the capital of france",
    "WHAT IS THE CAPITAL OF FRANCE???",
    "Q: What is the capital of France?",
    "Question 3. What is the capital of France? Answer:",
    "**What is the capital of France?**",
    "> What is the capital of France?",
    "<p>What is the capital of France?</p>",
    "ｗｈａｔ is the capital of France？",
    "What\u200b is the cap\u00adital  of France ?",
    "Here is one. What is the capital\nof France? Think about it.",
    "Answer this: “What is the capital of France?”",
    "Q: 2+2",
    "２＋２",
    f"问题：{CHINESE}",
    CHINESE.replace("，", " ").rstrip("？"),
    f"老师问：“{CHINESE}”",
    f"質問：{JAPANESE}",
    unicodedata.normalize("NFD", JAPANESE),
    f"คำถาม: {THAI}",
    HINDI.rstrip("?"),
    f"질문은 이것이다: {unicodedata.normalize('NFD', KOREAN)}",
    ARABIC.rstrip("؟"),
]
OTHERS = [
    "2-2",
    "2+2+2",
    "22",
    "2+2=5",
    "Compute 5",
    "Sort: 3 1 2",
    "Sort: 3, 1.2",
    "What is the capital of Spain?",
    "What is the capital of France and of Spain?",
    CHINESE.replace("三", "九").replace("五", "八"),
    "小明有苹果。",
    "ตอนนี้",
    "राम के पास सेब हैं",
    "?",
    "",
]


def held_against(training: list[Example], measured: str = "validation") -> Splits:
    """Splits of these training rows, with MEASURED in one evaluation split."""
    rows = [(measured, row(text)) for text in MEASURED]
    needed = {"validation", "test", "unlabelled", "train"} - {measured}
    rows += [
        (split, row(f"something of {split} {place}"))
        for place, split in enumerate(sorted(needed))
    ]
    return make_splits([*rows, *(("train", one) for one in training)], Fractions(), 0)  # type: ignore[list-item]


def row(prompt: str, completion: str = "4") -> Example:
    return Example(
        prompt, completion, verifier="exact", reference={"answer": completion}
    )


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_of_an_evaluation_question_is_not_trained_on(copy: str) -> None:
    for training in (
        row(copy),  # a labelled row
        row("", f"Some text before it.\n{copy}\nAnd some after it."),  # raw text
        row("Write a quiz.", f"Here it is:\n\n{copy}\n\nPatience."),
    ):
        if (
            training.prompt != copy
            and tokens_of(SHORT).joined in tokens_of(copy).joined
        ):
            continue  # so short a question is looked for as a prompt alone
        splits = held_against([training, row("Another question")])
        assert [
            one.prompt for one in splits.train if one.prompt != "something of train 1"
        ] == ["Another question"]
        (rejected,) = splits.rejected
        if rejected.reason == "in_evaluation":
            assert unicodedata.normalize("NFC", copy) in MEASURED
        else:
            assert rejected.reason == "contaminated"
            assert "evaluation prompt" in rejected.detail


@pytest.mark.parametrize("other", OTHERS)
def test_another_question_is_trained_on(other: str) -> None:
    index = Overlap([(ask(text, "4"), "4") for text in MEASURED], parts=False)
    assert index.of_prompt(other) == ""
    assert index.of_text(f"{other}\n{other}") == ""


@pytest.mark.parametrize(
    "measured", ["vault", "test", "validation", "audit", "dev", "retention"]
)
def test_every_split_that_measures_is_held_against_what_is_trained_on(
    measured: str,
) -> None:
    splits = held_against([row("q: what is the capital of france")], measured)
    assert splits.rejected_counts == {"contaminated": 1}
    assert measured in splits.counts


def test_prompts_to_sample_from_are_searched_too_and_what_is_left_may_be_too_little() -> (
    None
):
    rows = [("validation", row(ENGLISH)), ("test", row("t")), ("train", row("mine"))]
    rows += [("unlabelled", row("q: " + ENGLISH.lower())), ("unlabelled", row("u"))]
    splits = make_splits(rows, Fractions(), 0)  # type: ignore[arg-type]
    assert [prompt.text for prompt in splits.unlabelled] == ["u"]
    with pytest.raises(UserError, match=r"split train is empty.*contaminated 1"):
        make_splits([*rows[:2], ("train", row(ENGLISH.upper()))], Fractions(), 0)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("grid", "other"),
    [("_ 3 1 _", "3 _ _ 1"), (". 3\n. .", "3 .\n. ."), ("#.#", ".##")],
)
def test_empty_cells_of_a_puzzle_are_part_of_it(grid: str, other: str) -> None:
    index = Overlap(
        [(ask(f"Solve this grid:\n{grid}\nThank you.", "?"), "?")], parts=False
    )
    assert index.of_prompt(f"Solve this grid:\n{other}\nThank you.") == ""
    assert index.of_prompt(f"# Puzzle\n\nsolve this grid\n\n{grid}\n\n**Thank you**")


def test_a_question_that_stands_in_others_is_no_copy_there() -> None:
    lists = [
        "Sort these lines:\n3",
        "Sort these lines:\n3\n1",
        "Sort these lines:\n7\n2\n9",
    ]
    index = Overlap([(ask(text, "?"), "?") for text in lists], parts=False)
    assert index.of_prompt("Sort these lines:\n3\n8\n5") == ""
    assert index.of_prompt("Sort these lines:\n7\n2\n9\nThank you.")
    assert index.of_prompt("SORT THESE LINES: 3")


def test_an_answer_may_be_what_another_prompt_asks() -> None:
    """A sorted list may be a list to sort, a translation a sentence to translate."""
    index = Overlap([(ask("1 2 3 4", "1 2 3 4"), "1 2 3 4")], parts=False)
    assert index.of_text("1 2 3 4") == ""
    assert index.of_text("1 2 3 4", is_answer=False)
    assert index.of_text("The question is: 1 2 3 4. Answer: 1 2 3 4.")


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        (CHINESE, CHINESE.replace("一共", "总共")),
        (JAPANESE, JAPANESE.replace("いま", "今")),
        (THAI, THAI.replace("ตอนนี้", "ปัจจุบัน")),
        (HINDI, HINDI.replace("श्याम", "मोहन")),
    ],
)
def test_parts_and_rewordings_are_found_in_every_script(
    text: str, changed: str
) -> None:
    index = Overlap([(ask(text, "6"), "6")])
    assert index.of_prompt(changed)
    assert index.of_text(f"前{text}后" if text is CHINESE else f"x {text} y")
    unlike = "今天天气很好，我们打算去公园散步，然后在湖边的小饭馆吃一顿简单的午饭，晚上再坐火车回家。"
    assert index.of_prompt(unlike) == ""


def test_tokens_keep_what_is_asked_and_drop_what_a_copy_changes() -> None:
    assert (
        tokens_of("It’s 3.5 – not 3:2…").tokens
        == tokens_of("it's 3.5 - NOT 3:2").tokens
    )
    assert tokens_of("1,000 users").tokens == ("1", "000", "users")
    assert tokens_of("f(x) = 5!").tokens == ("f", "(", "x", ")", "=", "5", "!")
    assert tokens_of("हिन्दी").tokens == ("हिन्दी",)
    assert tokens_of("One. Two\nThree, four").breaks == (0, 1, 2, 4)


EIGHT_WORDS = "lemon barley copper violin harbour thunder walnut meadow"


def test_a_rewording_is_looked_for_in_prompts_of_eight_words_and_more() -> None:
    index = Overlap([(ask(EIGHT_WORDS, "?"), "?")])
    assert "Jaccard" in index.of_prompt(EIGHT_WORDS.replace("meadow", "meadows and"))
    assert "Jaccard" in index.of_prompt(EIGHT_WORDS.replace("meadow", "mirror"))
    assert index.of_prompt(EIGHT_WORDS.removesuffix(" meadow")) == ""
    short = Overlap([(ask(EIGHT_WORDS.removesuffix(" meadow"), "?"), "?")])
    assert short.of_prompt(EIGHT_WORDS) == ""


@pytest.mark.parametrize(
    ("item", "is_found"),
    [("copper violin harbour thunder", True), ("a great film", False)],
)
def test_a_prompt_of_four_words_is_looked_for_inside_texts(
    item: str, is_found: bool
) -> None:
    index = Overlap([(ask(item, "?"), "?")])
    assert bool(index.of_text(f"So it goes. {item}. And so on.")) is is_found


TEMPLATES = [
    "{} Class :",
    "Question: {}\nAnswer:",
    "Answer in one word.\n{}",
    "### Instruction:\n{}\n\n### Response:\n",
    "Classify the text.\n\nText: {}\n\nLabel:",
    "You are given a question. {} Think, then answer.",
    "问题：{}\n请用一个词回答。",
]
COUNTRIES = [
    "Peru",
    "Chad",
    "Oman",
    "Cuba",
    "Iran",
    "Iraq",
    "Mali",
    "Fiji",
    "Laos",
    "Togo",
    "Niger",
    "Nepal",
]


def about(country: str) -> str:
    return f"Which river of {country} is the longest of all its rivers?"


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_question_is_found_without_the_template_of_the_evaluation(
    template: str,
) -> None:
    asked = [template.format(about(country)) for country in COUNTRIES]
    index = Overlap([(ask(text, "?"), "?") for text in asked], parts=False)
    for country in COUNTRIES:
        copy = about(country)
        for found in (
            index.of_prompt(copy),
            index.of_prompt(f"Q: {copy.lower()}"),
            index.of_text(f"It is asked. {copy} Nobody knows.", is_answer=False),
        ):
            assert found.endswith("but for its template"), (country, found)
    assert index.of_prompt(about("Spain")) == ""
    # The template alone is no question, nor is an answer that says what is asked.
    assert (
        index.of_text(f"{template.format('')} {about('Spain')}", is_answer=False) == ""
    )
    assert index.of_text(f"{about('Spain')} {about('Peru')}") == ""


def test_raw_text_with_a_question_of_a_measured_split_is_dropped() -> None:
    labelled = [row(f"{about(country)} Class :", "LOC") for country in COUNTRIES]
    rows = [("validation", one) for one in labelled[:10]]
    rows += [("train", one) for one in labelled[10:]]
    rows += [("train", row("", about(country))) for country in COUNTRIES]
    rows += [(split, row(f"of {split}")) for split in ("test", "unlabelled")]
    splits = make_splits(rows, Fractions(), 0)  # type: ignore[arg-type]
    dropped = [one.detail for one in splits.rejected if one.reason == "contaminated"]
    assert len(dropped) == 10
    texts = [one.completion for one in splits.train if not one.prompt]
    assert texts == [about(country) for country in COUNTRIES[10:]]


def test_another_task_on_the_same_numbers_is_no_copy() -> None:
    numbers = [f"{one} {one + 3} {one + 1} {one + 7}" for one in range(20)]
    items = [f"Sort: {one}" for one in numbers]
    index = Overlap([(ask(text, "?"), "?") for text in items], parts=False)
    assert index.of_prompt("Reverse: 3 6 4 10") == ""
    assert index.of_text("3 6 4 10") == ""
    assert index.of_text("Text: 3 6 4 10", is_answer=False)
    both = Overlap(
        [
            (ask(text, "?"), "?")
            for one in numbers
            for text in (f"Sort: {one}", f"Add: {one}")
        ],
        parts=False,
    )
    assert both.of_prompt("Add: 3 6 4 10")
    # Lists of numbers that several tasks are about stand in raw text for other reasons as well.
    assert both.of_text("Text: 3 6 4 10", is_answer=False) == ""
    other = Overlap(
        [(ask(f"Add: {one}", "?"), "?") for one in range(1000, 1020)]
        + [(ask(text, "?"), "?") for text in items],
        parts=False,
    )
    assert other.of_prompt("Add: 3 6 4 10") == ""
    assert other.of_prompt("3 6 4 10")
    few = Overlap([(ask(text, "?"), "?") for text in items[:9]], parts=False)
    assert few.of_text("Text: 3 6 4 10", is_answer=False) == ""
