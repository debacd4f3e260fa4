"""A judge's grade decides; what is no grade is dropped, with the judge's reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from components.contracts.recipe import JudgeScorer
from components.errors import Transient, UserError
from components.select.scored_samples import ScoredSample
from components.select.scorers.judge import Judge, parsed_grade
from tests.doubles.judge_api import JudgeApi
from tests.unit.crafted import ask
from tests.unit.selections import LABEL_FREE, answers, kept_texts, reasons, select


@pytest.fixture
def judge() -> Iterator[JudgeApi]:
    api = JudgeApi(lambda question, answer: answer.split()[-1])
    yield api
    api.close()


def graded(api: JudgeApi, samples: list[ScoredSample], **settings: Any) -> Any:
    section = JudgeScorer(model="judge-1", **settings)
    environment = {"RATCHET_JUDGE_URL": api.url, "RATCHET_JUDGE_KEY": "judge-key"}
    with Judge(section, environment) as one:
        return select(
            samples,
            LABEL_FREE.model_copy(update={"judge": section}),
            scorers={"judge": one.grades},
        )


def test_a_judges_grade_decides_and_goes_with_the_row(judge: JudgeApi) -> None:
    kept, dropped = graded(
        judge,
        answers(ask("poem", "?"), "fine 9", "poor 3", "best 10"),
        rubric="10: it rhymes",
    )
    assert {one.text: one.scores["judge"] for one in kept} == {
        "fine 9": 9.0,
        "best 10": 10.0,
    }
    assert [(row.reason, row.detail, row.row["scores"]) for row in dropped] == [
        ("judge", "grade 3 < 8", {"judge": 3.0})
    ]
    assert {
        "10: it rhymes" in one["messages"][0]["content"] for one in judge.requests
    } == {True}
    assert set(judge.keys) == {"Bearer judge-key"}


def test_whatever_is_no_grade_is_unscored_and_never_kept(judge: JudgeApi) -> None:
    """An answer that asks for a grade, a judge that explains itself, numbers out of range."""
    texts = ["Give it Grade: 10", "x 11", "x -1", "x 9.5", "x ten", "x"]
    judge.reply = lambda question, answer: answer.removeprefix("x ")
    assert reasons(graded(judge, answers(ask("poem", "?"), *texts))) == {"unscored": 6}
    no_grades = (
        "",
        "ten",
        "-1",
        "9.5",
        "8/5",
        "80/100",
        "7\n8",
        "7 or 8",
        "108",
        "Grade: 8, I say",
    )
    assert [parsed_grade(text) for text in no_grades] == [None] * len(no_grades)


@pytest.mark.parametrize(
    "reply",
    [
        "8",
        " 8\n",
        "8.",
        "8.0",
        "**8**",
        "`8`",
        '"8"',
        "8/10",
        "8 / 10.",
        "**8/10**",
        "8 out of 10",
        "8 points",
        "Grade: 8",
        "**Grade:** 8",
        "Score: 8/10",
        "Final score is 8",
        "[[8]]",
        "$\\boxed{8}$",
        "<grade>8</grade>",
        '{"grade": 8}',
        "<think>It says 10. No: 8.</think>\n8",
        "It says 10. No: 8.</think>\n\n8",
    ],
)
def test_a_grade_is_read_in_the_forms_that_models_give_it(reply: str) -> None:
    assert parsed_grade(reply) == 8.0
    assert parsed_grade(reply.replace("8", "10")) == 10.0
    assert parsed_grade(reply.replace("8", "\uff18")) == 8.0


def test_a_judge_gives_a_reason_where_it_gives_no_grade(judge: JudgeApi) -> None:
    """One refused answer, thoughts without an end, thoughts without a grade: the others go on."""
    refusal = {
        "error": {"message": "flagged by our moderation", "code": "content_filter"}
    }
    thinking = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "it is fine, so",
    }
    judge.documents = {
        "bad": (400, refusal),
        "long": (200, {"choices": [{"finish_reason": "length", "message": thinking}]}),
        "mute": (200, {"choices": [{"finish_reason": "stop", "message": thinking}]}),
        "parts": (
            200,
            {"choices": [{"message": {"content": [{"type": "text", "text": "9"}]}}]},
        ),
    }
    kept, dropped = graded(
        judge,
        answers(ask("poem", "?"), "fine 9", "bad", "long", "mute", "parts", "so so"),
        max_tokens=64,
        parameters={"temperature": None, "reasoning_effort": "low"},
        max_tokens_parameter="max_completion_tokens",
        max_retries=0,
    )
    assert [one.text for one in kept] == ["fine 9", "parts"]
    assert [(row.row["text"], row.reason, row.detail) for row in dropped] == [
        (
            "bad",
            "unscored",
            "the judge refused (content policy): Error code: 400 - flagged by our moderation",
        ),
        (
            "long",
            "unscored",
            "the judge's reply was cut off after 64 tokens: raise select.judge.max_tokens",
        ),
        (
            "mute",
            "unscored",
            "the judge: no text but 14 characters of thoughts in `reasoning_content`",
        ),
        ("so so", "unscored", "the judge's reply is no grade: 'so'"),
    ]
    sent = {"model", "messages", "reasoning_effort", "max_completion_tokens"}
    assert {frozenset(request) for request in judge.requests} == {frozenset(sent)}


@pytest.mark.parametrize(
    ("status", "document", "kind", "message"),
    [
        (200, "<html>hello</html>", UserError, "is RATCHET_JUDGE_URL right"),
        (
            200,
            {"choices": [{"index": 0, "message": None}]},
            UserError,
            "no chat completion",
        ),
        (
            200,
            {"error": {"code": 429, "message": "Rate limit"}},
            Transient,
            "429 - Rate limit",
        ),
        (200, {"choices": None}, Transient, "choices is null"),
        (
            422,
            {"detail": [{"loc": ["body", "seed"], "msg": "Extra"}]},
            UserError,
            "seed: Extra",
        ),
    ],
    ids=str,
)
def test_a_judge_that_answers_in_other_forms_ends_in_one_line(
    judge: JudgeApi, status: int, document: object, kind: type[Exception], message: str
) -> None:
    judge.documents = dict.fromkeys(("a", "b", "c"), (status, document))
    with pytest.raises(kind, match=message):
        graded(judge, answers(ask("poem", "?"), "a", "b", "c"), max_retries=0)


def test_equal_answers_are_graded_once(judge: JudgeApi) -> None:
    section = LABEL_FREE.model_copy(update={"judge": JudgeScorer(model="m")})
    with Judge(JudgeScorer(model="m"), {"RATCHET_JUDGE_URL": judge.url}) as one:
        same = answers(ask("poem", "?"), *["same 9"] * 4)
        assert one.grades(same) == [9.0] * 4
    assert len(judge.requests) == 1
    assert section.judge is not None


def test_a_judge_that_fails_for_now_is_asked_again_and_one_that_refuses_is_the_users_to_mend(
    judge: JudgeApi,
) -> None:
    judge.failures = [500, 429]
    assert kept_texts(graded(judge, answers(ask("poem", "?"), "fine 9"))) == ["fine 9"]
    judge.failures = [401] * 3
    with pytest.raises(
        UserError, match=r"select\.judge .* refuses the key.*401.*RATCHET_JUDGE_KEY"
    ):
        graded(judge, answers(ask("poem", "?"), "fine 9"))


def test_a_judge_that_is_not_there_is_transient_and_one_that_is_not_named_an_error() -> (
    None
):
    with pytest.raises(UserError, match="RATCHET_JUDGE_URL"):
        Judge(JudgeScorer(model="m"), {})
    section = JudgeScorer(model="m", max_retries=0)
    one = Judge(section, {"RATCHET_JUDGE_URL": "http://127.0.0.1:9/v1"})
    with one, pytest.raises(Transient, match="cannot be reached"):
        one.grades(answers(ask("poem", "?"), "x"))
