"""Logs of production become data of a recipe: what is taken, what is not, and nothing personal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.cli.intake.exchanges import exchange_of
from components.cli.intake.feedback import Scale
from components.cli.intake.personal import Redaction
from components.cli.main import app
from components.contracts.recipe import DataSource
from components.prepare.examples import Example
from components.prepare.readers import read_source
from components.prepare.row_values import RejectedRow

ASKED = [{"role": "user", "content": "Where is Kyoto?"}]
SAID = {"role": "assistant", "content": "In Japan."}
CHOICES: dict[str, Any] = {
    "id": "chatcmpl-7",
    "choices": [{"message": SAID, "finish_reason": "stop"}],
}
OPENAI = {"request": {"model": "m", "messages": ASKED}, "response": CHOICES}
LITELLM = {"id": "a1", "status": "success", "messages": ASKED, "response": CHOICES}
LANGFUSE = {"id": "t1", "input": ASKED, "output": SAID}
BATCH = {
    "custom_id": "q-1",
    "body": {"messages": ASKED},
    "response": {"status_code": 200, "body": CHOICES},
}
RESPONSES = {
    "request": {
        "input": [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "Where is Kyoto?"}],
            }
        ]
    },
    "response": {
        "id": "resp_1",
        "status": "completed",
        "output": [
            {"type": "reasoning", "summary": []},
            {
                "type": "message",
                "content": [{"type": "output_text", "text": "In Japan."}],
            },
        ],
    },
}


@pytest.mark.parametrize(
    "row",
    [
        OPENAI,
        LITELLM,
        LANGFUSE,
        BATCH,
        RESPONSES,
        {"messages": [*ASKED, SAID]},
        {"request": json.dumps(OPENAI["request"]), "response": json.dumps(CHOICES)},
        {"input": "Where is Kyoto?", "output": "In Japan."},
        {"prompt": "Where is Kyoto?", "completion": "In Japan."},
        {"prompt": "Where is Kyoto?", "response": {"choices": [{"text": "In Japan."}]}},
        {"standard_logging_object": LITELLM},
    ],
)
def test_an_exchange_is_found_in_every_shape_of_a_log(row: dict[str, Any]) -> None:
    found = exchange_of(row)
    assert (list(found.prompt_turns), found.answer, found.flaw) == (ASKED, SAID, "")


def choice(**changes: Any) -> dict[str, Any]:
    return {
        **OPENAI,
        "response": {"choices": [{"message": SAID, "finish_reason": "stop"} | changes]},
    }


@pytest.mark.parametrize(
    ("row", "flaw"),
    [
        (choice(finish_reason="length"), "cut_off"),
        (choice(finish_reason="content_filter"), "refused"),
        (choice(message={"role": "assistant", "refusal": "I cannot."}), "refused"),
        (choice(message={"role": "assistant", "content": None}), "no_answer"),
        (
            {**OPENAI, "response": {"choices": CHOICES["choices"] * 2}},
            "several_answers",
        ),
        ({**RESPONSES, "response": {"status": "incomplete", "output": []}}, "cut_off"),
        ({"messages": [*ASKED, SAID, *ASKED]}, "no_answer"),
    ],
)
def test_an_answer_that_could_teach_errors_is_none(
    row: dict[str, Any], flaw: str
) -> None:
    found = exchange_of(row)
    assert (found.answer, found.flaw) == (None, flaw)
    assert found.prompt_turns[-1] == ASKED[0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**LITELLM, "status": "failure"}, "failed"),
        ({**OPENAI, "response": {"error": {"message": "overloaded"}}}, "failed"),
        (
            {
                "custom_id": "q",
                "body": {"messages": ASKED},
                "response": {"status_code": 429, "body": {}},
            },
            "failed",
        ),
        (
            {"custom_id": "q", "response": {"status_code": 200, "body": CHOICES}},
            "no_request",
        ),
        ({"level": "INFO", "event": "started"}, "no_request"),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "empty"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "wrong_type",
        ),
        ([1], "wrong_type"),
    ],
)
def test_what_is_no_exchange_is_dropped_with_the_reason(row: Any, reason: str) -> None:
    with pytest.raises(RejectedRow) as caught:
        exchange_of(row)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("row", "is_good"),
    [
        ({"feedback": "thumbs_up"}, True),
        ({"feedback": {"thumbs": "Down"}}, False),
        ({"rating": 1}, True),
        ({"rating": -1}, False),
        ({"rating": 4}, None),
        (
            {
                "scores": [
                    {"name": "user", "value": 1},
                    {"name": "judge", "value": True},
                ]
            },
            True,
        ),
        (
            {"scores": [{"name": "user", "value": 1}, {"name": "judge", "value": 0}]},
            None,
        ),
        ({"feedback": "so-so"}, None),
        ({}, None),
    ],
)
def test_feedback_says_good_or_bad_or_nothing(
    row: dict[str, Any], is_good: bool | None
) -> None:
    assert Scale().read(row).is_good is is_good


def test_marks_are_read_by_the_scale_that_is_named() -> None:
    stars = Scale(field="meta.stars", good_from=4)
    marks = [5, 4, "4", 3.5, "1"]
    assert [stars.read({"meta": {"stars": mark}}).is_good for mark in marks] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert Scale().read({"rating": 3}).flaw == "unclear_feedback"
    assert (
        Scale().read({"feedback": {"score": 1, "correction": "In Kansai."}}).correction
    )


PERSONAL = {
    "EMAIL": ["anna.müller+x@mail.example.org", "a@b.co"],
    "PHONE": ["+49 (0)30 1234-5678", "(415) 555-0132", "415-555-0132", "030 1234 5678"],
    "CARD": ["4111 1111 1111 1111", "5500-0000-0000-0004"],
    "IBAN": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
    "SSN": ["078-05-1120"],
    "IP": ["8.8.8.8", "2001:4860:4860::8888"],
    "SECRET": [
        "sk-proj-abcdefghijklmnop1234",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
        "Bearer abcdefghijklmnopqrstuvwx",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    ],
}


@pytest.mark.parametrize(
    ("kind", "text"),
    [(kind, text) for kind, texts in PERSONAL.items() for text in texts],
)
def test_what_looks_personal_is_replaced_by_its_kind(kind: str, text: str) -> None:
    redaction = Redaction()
    assert redaction.text(f"Write to {text}, please.") == f"Write to [{kind}], please."
    assert redaction.counts == {kind: 1}


@pytest.mark.parametrize(
    "text",
    [
        "12345678901234567890 is a long number, 4111 1111 1111 1112 has no checksum",
        "version 10.0.3.1 at 192.168.1.7 and 127.0.0.1, at 12:34:56",
        "17 + 25 = 42, 1,000,000 of 2026-11-30, 3.14159265358979",
        "room 0815, order 100-200, @decorator, x = a@b",
        "DE00 0000 0000 0000 0000 01 is no account",
        "0000 0000 0000 0000",
    ],
)
def test_plain_numbers_and_words_stay(text: str) -> None:
    assert Redaction().text(text) == text


def log(folder: Path, *rows: Any) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["intake", *map(str, arguments)])


def asked(text: str, said: str = "Yes.", **about: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": said}]
    return {"messages": turns, **about}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_becomes_sources_that_prepare_reads(tmp_path: Path) -> None:
    history = [
        *asked("Is it far?")["messages"],
        {"role": "user", "content": "How far, a@b.org?"},
    ]
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(
        '{"prompt": "Which river flows through Basel in Switzerland?", "completion": "Rhine"}\n'
    )
    path = log(
        tmp_path,
        asked("Is it good?", id="1", feedback="up"),
        asked("Is it good?", id="2", feedback="up"),
        asked("Is it bad?", id="3", feedback="down"),
        asked("Is it wrong?", id="4", correction="No, ask a@b.org."),
        {"messages": history, "id": "5"},
        {"messages": [*history, SAID], "id": "6"},
        asked("Is it good?", "Perhaps.", id="7"),
        asked("Q: which river flows through Basel in Switzerland?", feedback="up"),
        {"event": "started, said a@b.org"},
    )
    later = tmp_path / "feedback.jsonl"
    later.write_text('{"id": "6", "thumbs": "up"}\n{"id": "unknown", "thumbs": "up"}\n')
    folder = tmp_path / "taken in"
    outcome = call(
        path, "-o", folder, "--feedback", later, "--against", evaluation, "--json"
    )
    assert outcome.exit_code == 0, outcome.output
    told = json.loads(outcome.stdout)
    assert (told["rows"], told["labelled"], told["unlabelled"]) == (9, 3, 1)
    assert told["dropped"] == {
        "duplicate": 1,
        "contamination": 1,
        "no_request": 1,
        "labelled_too": 2,
    }
    assert told["answers_dropped"] == {
        "called_bad": 1,
        "no_answer": 1,
        "no_feedback": 1,
    }
    assert (told["multi_turn"], told["feedback_without_request"]) == (1, 1)
    assert [
        row["messages"][-1]["content"] for row in rows_of(folder / "labelled.jsonl")
    ] == [
        "Yes.",
        "No, ask [EMAIL].",
        "In Japan.",
    ]
    assert "a@b.org" not in "".join(one.read_text() for one in folder.iterdir())
    taught = list(
        read_source(folder / "labelled.jsonl", DataSource(uri="labelled.jsonl"))
    )
    open_prompts = list(
        read_source(
            folder / "unlabelled.jsonl",
            DataSource(uri="unlabelled.jsonl", split="unlabelled"),
        )
    )
    assert all(isinstance(one, Example) for one in taught + open_prompts)
    assert (len(taught), len(open_prompts)) == (3, 1)
    again = call(path, "-o", folder)
    assert again.exit_code == 2
    assert "exists" in again.stderr


def test_people_are_told_what_to_write_into_the_recipe(tmp_path: Path) -> None:
    history = [*asked("Is it far?")["messages"], *asked("How far?")["messages"]]
    logs = tmp_path / "logs"
    logs.mkdir()
    log(logs, {"messages": history, "thumbs": True}, asked("Is it new?"))
    outcome = call(logs, "-o", tmp_path / "new")
    assert outcome.exit_code == 0, outcome.output
    for words in (
        "2 rows: 1 labelled, 1 prompts without a good answer",
        "answers not taught: no_feedback 1",
        "labelled.jsonl}",
        "unlabelled.jsonl, split: unlabelled}",
        "train: {turns: last}",
    ):
        assert words in outcome.stdout


def test_a_function_of_ones_own_removes_names_before_the_patterns(
    tmp_path: Path,
) -> None:
    code = tmp_path / "mine.py"
    code.write_text("def redact(text):\n    return text.replace('Anna', '[NAME]')\n")
    path = log(tmp_path, asked("Ask Anna (a@b.org)?", feedback="up"))
    outcome = call(path, "-o", tmp_path / "new", "--redact", f"{code}:redact")
    assert outcome.exit_code == 0, outcome.output
    [row] = rows_of(tmp_path / "new" / "labelled.jsonl")
    assert row["messages"][0]["content"] == "Ask [NAME] ([EMAIL])?"
    assert "EMAIL 1, own 1" in outcome.stdout


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (
            [{"event": "x"}],
            (),
            "nothing to take in of 1 rows, most often (1): no_request",
        ),
        ([asked("Why?")], ("--redact", "none.py"), "give a file and a function"),
        ([asked("Why?")], ("--redact", "none.py:redact"), "there is no file "),
        ([asked("Why?")], ("--feedback", "LOG"), "names no request"),
    ],
)
def test_bad_input_costs_one_line(
    tmp_path: Path, rows: list[Any], options: tuple[str, ...], words: str
) -> None:
    path = log(tmp_path, *rows)
    options = tuple(str(path) if option == "LOG" else option for option in options)
    outcome = call(path, "-o", tmp_path / "new", *options)
    assert outcome.exit_code == 2
    assert words in " ".join(outcome.stderr.split())
    assert not (tmp_path / "new").exists()
    missing = call(tmp_path / "none.jsonl", "-o", tmp_path / "new")
    assert missing.exit_code == 2
