import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contracts.rows import Check, Prompt, prompt_id
from components.errors import UserError
from components.verifiers import answer_key, pattern_problem, scorer_is_safe, verify


def question(verifier: str, answer: str = "", text: str = "?") -> Prompt:
    return Prompt(
        id=prompt_id(text),
        text=text,
        verifier=verifier,
        reference={"answer": answer} if answer else {},
    )


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("#### 72", "She sold 48 / 2 = 24, so 48 + 24 = 72."),
        ("#### 1,450", "#### 1450"),
        ("1450", "The answer is $1,450.00."),
        ("-3", "x = 10 - 13 = -3"),
        ("3", "10-7=3"),
        ("0.5", "1/2"),
        ("1/2", r"so \boxed{\frac{1}{2}}"),
        ("50%", "0.5"),
        ("50%", "the answer is 50%"),
        ("7", "The answer is 7, because 3 + 4 and not 2"),
        ("7", r"\boxed{x = 7} and then 9 more words"),
        (".25", "0.250"),
        ("1000", "1e3"),
        ("-5", "-$5"),
        ("72", "#### 72 of 100 clips"),
        ("72", "#### 1\nNo, again:\n#### 72"),
        ("0.5", "50%"),
        ("18", "18 <think>maybe 12</think>"),
        ("18", "18 <think>a <think>12</think> b 13</think>"),
        ("18", "18 <think>a <think>12</think> b 13"),
        ("18", "<|begin_of_thought|>12<|end_of_thought|>18"),
        ("18", "12</think>18 <think>13"),
        ("18", "12</think></think>18"),
        ("18", "The answer is 13. <think>a</think> 12</think> 18"),
    ],
)
def test_numeric_accepts_the_same_number_however_it_is_written(
    reference: str, answer: str
) -> None:
    assert verify(question("numeric", reference), answer)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("72", "720"),
        ("72", "7 2"),
        ("72", ""),
        ("72", "####"),
        ("72", "72 #### 71"),
        ("3", "-3"),
        ("0.5", "5"),
        ("50%", "50.5"),
        ("72", "1/0"),
        ("72", "9" * 5000),
        ("0.5%", "50%"),
        ("1", "1e400"),
        ("1450", "1,45"),
        ("100", "#### 72 of 100 clips"),
        ("0.5", "50"),  # without the sign it is a hundred times as much
        ("50", "0.5"),
        ("50%", "0.5%"),
    ],
)
def test_numeric_refuses_another_number(reference: str, answer: str) -> None:
    assert not verify(question("numeric", reference), answer)


def test_numeric_votes_count_equal_numbers_as_one() -> None:
    prompt = question("numeric", "1450")
    keys = {
        answer_key(prompt, text)
        for text in ("#### 1,450", "it is 1450.0", "The answer is $1450")
    }
    assert keys == {"1450"}
    assert answer_key(prompt, "no idea") == ""


def test_numeric_reads_reasoning_that_ends_in_four_hashes() -> None:
    rows = [
        {
            "answer": "48/2 = <<48/2=24>>24 clips.\n48+24 = <<48+24=72>>72 clips.\n#### 72",
            "reply": "Natalia sold 72",
        },
        {
            "answer": "He pays 2*$5=$<<2*5=10>>10\n#### 1,080",
            "reply": "So the answer is 1080 dollars.",
        },
        {"answer": "loss of -$4\n#### -4", "reply": "#### -4.00"},
    ]
    for row in rows:
        assert verify(question("numeric", row["answer"]), row["answer"])
        assert verify(question("numeric", row["answer"]), row["reply"]), json.dumps(row)


@pytest.mark.parametrize("verifier", ["exact", "numeric", "choice"])
def test_an_answer_of_more_than_20_000_characters_is_wrong_whatever_it_says(
    verifier: str,
) -> None:
    prompt = question(verifier, "7")
    assert verify(prompt, " " * 19_999 + "7")
    assert not verify(prompt, " " * 20_000 + "7")


def test_exact_ignores_white_space_only() -> None:
    prompt = question("exact", "New  York")
    assert verify(prompt, " New York\n")
    assert not verify(prompt, "new york")
    assert not verify(question("exact"), "")


@pytest.mark.parametrize(
    "answer",
    [
        "B",
        "b",
        "(B)",
        "B.",
        "B) Paris",
        "The answer is B",
        "The answer is (B).",
        r"\boxed{B}",
        "I choose (B)",
        "The answer is B because it rains",
        "(A) is wrong, so #### B it is",
    ],
)
def test_choice_finds_the_letter(answer: str) -> None:
    assert verify(question("choice", "B"), answer)
    assert answer_key(question("choice", "B"), answer) == "B"


@pytest.mark.parametrize(
    "answer",
    [
        "A",
        "",
        "A better one",
        "(A) or so",
        "The answer is C",
        "Bob",
        "The answer is B's",
    ],
)
def test_choice_refuses_another_letter_or_none(answer: str) -> None:
    assert not verify(question("choice", "B"), answer)


def test_choice_accepts_the_option_itself() -> None:
    assert verify(question("choice", "(B) Paris"), "paris")
    assert verify(question("choice", "DESC"), "desc")
    assert not verify(question("choice", "DESC"), "ENTY")


def test_regex_must_match_the_whole_answer() -> None:
    prompt = question("regex", r"(yes|no) \d{2}")
    assert verify(prompt, " yes 12\n")
    assert not verify(prompt, "yes 123")
    assert not verify(prompt, "yes 12 " + "x" * 10_000)


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "(a+)+b",
            "(a|a)+b",
            "(a|aa)+b",
            "(a*)*b",
            "([a-z]+)*1",
            "(.*)*=1",
            ".*.*.*.*=1",
        ),
        *(
            "(a?){40}a{40}b",
            "(\\w+\\s?)*:",
            "((a+)?)+b",
            "^(a|b|ab)*c$",
            "(x+x+)+y",
            "(?i)(A|a)*b",
        ),
    ],
)
def test_no_pattern_of_a_row_holds_up_a_campaign(pattern: str) -> None:
    prompt = question("regex", pattern)
    for answer in ("a" * 15_000, "x" * 15_000, "ab" * 7_500, "a " * 7_500):
        assert not verify(prompt, answer)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a",
        "[",
        "a{2}{3}",
        "(?=a)b",
        r"(a)\1",
        "(.{1000}){1000}",
        "\ud800",
        "*",
        "(" * 2000,
    ],
)
def test_a_pattern_that_cannot_be_run_is_named_and_matches_nothing(
    pattern: str,
) -> None:
    assert "not a regular expression" in pattern_problem(pattern)
    assert not verify(question("regex", pattern), "a")


def test_a_lone_surrogate_in_an_answer_matches_no_letter() -> None:
    assert not verify(question("regex", "[a-z]"), "\ud800")


@pytest.mark.parametrize(
    ("task", "text", "right"),
    [
        ("reverse", "4711=", "1174"),
        ("copy", "(4711)=", "4711"),
        ("addition", "12+34=", "64"),
        ("addition", "99+99=", "891"),
    ],
)
def test_built_in_tasks_are_checked_from_the_prompt_alone(
    task: str, text: str, right: str
) -> None:
    prompt = question(f"task/{task}", text=text)
    assert verify(prompt, right)
    assert verify(prompt, f" {right}\n")
    assert not verify(prompt, right + "0")
    assert not verify(prompt, "")


def gym(name: str, **config: int) -> Prompt:
    import reasoning_gym

    entry = json.loads(
        json.dumps(reasoning_gym.create_dataset(name, seed=5, size=1, **config)[0])
    )
    text = entry["question"]
    return Prompt(
        id=prompt_id(text),
        text=text,
        verifier="reasoning_gym",
        reference={"name": name, "config": config, "entry": entry},
    )


@pytest.mark.parametrize(
    "name",
    [
        "gcd",
        "lcm",
        "basic_arithmetic",
        "prime_factorization",
        "countdown",
        "word_sorting",
        "mini_sudoku",
        "n_queens",
    ],
)
def test_reasoning_gym_scores_stored_entries(name: str) -> None:
    prompt = gym(name)
    answer = prompt.reference["entry"]["answer"]
    assert verify(prompt, answer)
    assert verify(prompt, f"I think: <answer>{answer}</answer>")
    for wrong in (
        "",
        "zz",
        "[1,",
        "((",
        "'",
        "1/0",
        "9" * 5000,
        "1e999999999",
        "\ud800",
    ):
        assert not verify(prompt, wrong)


@pytest.mark.parametrize("name", ["countdown", "n_queens", "spiral_matrix"])
def test_an_answer_is_never_run_as_code(name: str, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    code = f"open({str(trap)!r}, 'w')"
    for text in (code, f"[{code}]", f"__import__('os').system('touch {trap}')"):
        assert not verify(gym(name), text)
    assert not trap.exists()
    assert not scorer_is_safe("polynomial_multiplication")


@pytest.mark.process
@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"\frac{1}{2}", "The answer is 0.5"),
        ("x^2-1", r"so \boxed{(x-1)(x+1)}"),
        (r"\{1,2\}", r"$\{2,1\}$"),
        ("x+y", "y + x"),
        ("1,000", "It is 1000."),
        ("72", "#### 72"),
    ],
)
def test_mathematics_is_compared_by_what_it_means(reference: str, answer: str) -> None:
    assert verify(question("math", reference), answer)


@pytest.mark.process
@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("x^2-1", "(x-1)(x+2)"),
        ("72", "73"),
        ("x", ""),
        ("", "x"),
        ("x", "$"),
        ("x", "\\frac{"),
        ("2x", "x" * 5000),
    ],
)
def test_other_mathematics_is_refused(reference: str, answer: str) -> None:
    assert not verify(question("math", reference), answer)


@pytest.mark.process
def test_an_expression_that_takes_for_ever_is_wrong_and_the_next_is_checked_all_the_same(
    tmp_path: Path,
) -> None:
    assert not verify(question("math", "x"), "$" + "9^{" * 4 + "9" + "}" * 4 + "$")
    trap = tmp_path / "ran"
    assert not verify(question("math", "x"), f"open({str(trap)!r}, 'w')")
    assert not trap.exists()
    assert verify(question("math", "x+1"), "1+x")


def test_votes_on_mathematics_count_equal_numbers_as_one() -> None:
    keys = {
        answer_key(question("math", "1/2"), text)
        for text in ("0.5", r"\boxed{\frac{1}{2}}", "the answer is 1/2.")
    }
    assert keys == {"1/2"}


def test_an_unknown_verifier_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"unknown verifier 'vibes'.*numeric"):
        verify(question("vibes"), "x")


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        ["exact", "numeric", "choice", "regex", "task/reverse", "task/addition"]
    ),
    st.text(),
    st.text(),
)
def test_no_text_makes_a_verifier_raise(
    verifier: str, reference: str, text: str
) -> None:
    prompt = question(verifier, reference, text="12+34=")
    assert verify(prompt, text) in (True, False)
    assert isinstance(answer_key(prompt, text), str)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789.,-+/%$eE# \\boxed{}frac()answer is", max_size=80))
def test_no_number_like_text_makes_the_numeric_verifier_raise(text: str) -> None:
    verify(question("numeric", text or "1"), text)
    answer_key(question("numeric", "1"), text)


@pytest.mark.parametrize(
    ("reference", "tolerance", "relative", "near", "far"),
    [
        ("3.14", 0.01, 0.0, ["3.15", "3.13", "it is 3.141"], ["3.151", "3.1"]),
        ("1000", 0.0, 0.01, ["1010", "990", "1,005"], ["1011", "-1000"]),
        ("-2", 0.5, 0.1, ["-2.5", "-1.5"], ["-2.6", "2"]),
        ("-100", 0.0, 0.05, ["-104", "-95"], ["-106", "104"]),
        ("5", 0.0, 0.0, ["5"], ["6", "5.001"]),
        ("none", 9.0, 0.0, [], ["5", "none"]),
        (
            "50%",
            0.01,
            0.0,
            ["0.51", "0.49", "50.01", "50%"],
            ["0.52", "50.02", "50.02%", "51%"],
        ),
        ("50%", 2.0, 0.0, ["51%", "51"], ["53%"]),
        ("100", 8.0, 0.05, ["108", "105"], ["109"]),
        ("0.5", 0.01, 0.0, ["51%", "0.49"], ["52%"]),
        ("0", 0.0, 0.1, ["0"], ["0.001"]),
    ],
)
def test_a_number_within_the_tolerance_is_right(
    reference: str, tolerance: float, relative: float, near: list[str], far: list[str]
) -> None:
    check = Check(tolerance=tolerance, relative_tolerance=relative)
    prompt = question("numeric", reference).model_copy(update={"check": check})
    assert [verify(prompt, text) for text in near] == [True] * len(near)
    assert [verify(prompt, text) for text in far] == [False] * len(far)
    assert not verify(prompt, "no number")
