"""Votes count answers as the verifier holds them for equal, in whatever order they were sampled."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contracts.recipe import SelectSection
from components.contracts.rows import Prompt, Sample, prompt_id
from components.evaluate.verification_gap import generation_verification
from components.select.scored_samples import make_scored_samples
from components.verifiers import verify, vote_keys
from tests.unit.selections import kept_texts, reasons, select

LABEL_FREE = SelectSection(
    verifier=False, max_length_ratio=1000.0, minhash_threshold=1.0, min_vote_share=0.5
)

SAME: list[tuple[str, list[str]]] = [
    ("numeric", ["50%", "0.5", "0.5", "50%"]),
    ("numeric", ["50%", "50", "The answer is 50 percent."]),
    ("numeric", ["1,450", "#### 1450", r"\boxed{1{,}450.0}", r"1.45 \times 10^3"]),
    ("numeric", ["1 1/2", r"1\frac12", "1.5", "3/2"]),
    ("math", ["50%", "0.5", "1/2", r"\boxed{\frac12}"]),
    ("math", [r"\frac12", r"\frac{1}{2}", "0.5", "The answer is $0.5$."]),
    (
        "math",
        [
            rf"{word} \boxed{{\frac{{\sqrt{{3}}}}{{2}}}}."
            for word in ("So", "Hence", "Thus")
        ],
    ),
    (
        "math",
        [r"\boxed{\frac{\sqrt3}{2}}", r"\dfrac{\sqrt{3}}{2}", r"$\frac{\sqrt{3}}{2}$"],
    ),
    ("math", ["x+1", "1+x", r"\boxed{x+1}", "<think>x</think> The answer is $1 + x$."]),
    ("math", [r"\sqrt{4}", "2", "x = 2"]),
    ("math", ["(1,2)", "(1, 2)", r"\left(1,2\right)"]),
    ("choice", ["B", "The answer is **B**", "(B)", "Option B", r"\boxed{\text{B}}"]),
    ("choice", ["B", "(B) Paris", "Paris", "**Paris**"]),
    ("choice", ["yes", "**Yes**", r"\boxed{\text{Yes}}"]),
    ("exact", ["caf\u00e9", "cafe\u0301", " caf\u00e9\ufeff\n"]),
    (
        "reasoning_gym",
        ["4", "<answer>4</answer>", "<think>5</think><answer> 4 </answer>"],
    ),
]
DIFFERENT: list[tuple[str, list[str]]] = [
    ("numeric", ["5", "-5", "50%", "0.05"]),
    ("numeric", ["1.5", "5.5", "15"]),
    ("math", [r"\boxed{1\frac{1}{2}}", r"\boxed{\frac{11}{2}}", "1/2"]),
    ("math", ["x^2+y^2=25", "x+y=25", "x-y=5"]),
    ("math", [r"3\sqrt{2}", r"2\sqrt{3}", "3", "2"]),
    ("math", ["2 3", "23"]),
    ("choice", ["A", "B", "C"]),
    ("exact", ["a", "A", "a b"]),
]


def question(verifier: str, text: str = "?") -> Prompt:
    return Prompt(
        id=prompt_id(text), text=text, verifier=verifier, reference={"answer": "7"}
    )


def samples_of(prompt: Prompt, texts: list[str]) -> list[Sample]:
    return [
        Sample(
            prompt_id=prompt.id, index=i, seed=i, text=text, num_tokens=3, finished=True
        )
        for i, text in enumerate(texts)
    ]


@pytest.mark.process
@pytest.mark.parametrize(("verifier", "texts"), SAME)
def test_equal_answers_are_one_vote_key(verifier: str, texts: list[str]) -> None:
    prompt = question(verifier)
    keys = vote_keys(prompt, texts)
    assert len(set(keys)) == 1, keys
    assert keys[0]
    assert vote_keys(prompt, texts[::-1]) == keys
    candidates = make_scored_samples({prompt.id: prompt}, samples_of(prompt, texts))
    assert {one.vote_share for one in candidates} == {1.0}


@pytest.mark.parametrize(("verifier", "texts"), DIFFERENT)
def test_different_answers_stay_apart(verifier: str, texts: list[str]) -> None:
    assert len(set(vote_keys(question(verifier), texts))) == len(texts)
    for reference, text in itertools.permutations(texts, 2):
        asked = question(verifier).model_copy(
            update={"reference": {"answer": reference}}
        )
        assert not verify(asked, text), (reference, text)


@pytest.mark.parametrize(
    ("texts", "keys"),
    [
        (["50%", "50", "50", "0.5"], ["50", "50", "50", "1/2"]),
        (["50%", "50", "0.5", "0.5"], ["1/2", "50", "1/2", "1/2"]),
        (["50%", "50", "0.5"], ["1/2", "50", "1/2"]),
        (["50%", "50%"], ["50%", "50%"]),
    ],
)
def test_a_percentage_goes_to_the_larger_of_the_numbers_it_equals(
    texts: list[str], keys: list[str]
) -> None:
    for verifier in ("numeric", "math"):
        for order in itertools.permutations(range(len(texts))):
            shuffled = vote_keys(question(verifier), [texts[place] for place in order])
            assert shuffled == [keys[place] for place in order]


def test_what_is_no_answer_does_not_vote() -> None:
    assert vote_keys(question("numeric"), [r"3\sqrt{2}", "14:30", "no idea"]) == [
        "",
        "",
        "",
    ]
    assert vote_keys(question("choice"), ["A and B", "I don't know"]) == ["", ""]
    assert vote_keys(question("numeric"), ["7" * 30_000, "x" * 30_000 + "7"]) == [
        "",
        "",
    ]


@pytest.mark.process
def test_an_expression_that_takes_for_ever_is_waited_for_once(
    started_pythons: list[str],
) -> None:
    forever = "9^{" * 4 + "9" + "}" * 4
    keys = vote_keys(question("math"), [forever, "x+1", "1+x", "y", "z", forever])
    assert keys[1] == keys[2]
    assert keys[0] == keys[5]
    assert len(set(keys)) == 4
    # Each wait of 5 s ends the process, and the next expression starts another: five waits at most
    # for the 15 pairs of answers.
    assert len(started_pythons) <= 6


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(["50%", "0.5", "50", "1/2", "5", "B", "(B)", "", "½"]),
        max_size=6,
    )
)
def test_keys_do_not_depend_on_the_order_of_the_answers(texts: list[str]) -> None:
    for verifier in ("numeric", "choice", "exact"):
        keys = dict(zip(texts, vote_keys(question(verifier), texts), strict=True))
        again = dict(
            zip(texts[::-1], vote_keys(question(verifier), texts[::-1]), strict=True)
        )
        assert keys == again


@pytest.mark.parametrize(
    ("texts", "share"),
    [
        (["7", "7", "8", "8"], 0.5),
        (["8", "8", "7", "7"], 0.5),
        (["1", "2", "3", "4"], 0.25),
        (["7", "8"], 0.5),
        (["50%", "0.5", "8", "8.0"], 0.5),
        (["7", "7", "8", "8", "no idea"], 0.4),
    ],
)
def test_a_tie_is_no_majority_unless_the_recipe_says_so(
    texts: list[str], share: float
) -> None:
    prompt = question("numeric")
    candidates = make_scored_samples({prompt.id: prompt}, samples_of(prompt, texts))
    assert {one.is_tied for one in candidates} == {True}
    section = LABEL_FREE.model_copy(update={"min_vote_share": share})
    outcome = select(candidates, section)
    assert kept_texts(outcome) == []
    assert reasons(outcome) == {"vote": len(texts)}
    first = select(candidates, section.model_copy(update={"tie_goes_to_first": True}))
    assert kept_texts(first)[0] == texts[0]
    assert {one.answer for one in first[0]} == {candidates[0].answer}


def test_one_answer_alone_is_no_tie() -> None:
    prompt = question("numeric")
    for texts in (["7"], ["7", "7", "8"], ["7", "none", "none"]):
        candidates = make_scored_samples({prompt.id: prompt}, samples_of(prompt, texts))
        assert {one.is_tied for one in candidates} == {False}, texts
    nothing = make_scored_samples(
        {prompt.id: prompt}, samples_of(prompt, ["none", "no"])
    )
    assert {one.is_tied for one in nothing} == {False}


def test_the_majority_of_the_measures_is_counted_by_answer_too() -> None:
    prompt = question("numeric").model_copy(update={"reference": {"answer": "1/2"}})
    samples = samples_of(prompt, ["so it is 7", "7 it is", "0.5", "1/2", "50%"])
    verdicts = [verify(prompt, sample.text) for sample in samples]
    gap = generation_verification([prompt], samples, verdicts)
    assert gap is not None
    assert gap.majority_accuracy == 1.0
