"""A function of the user's own that fails as logs are taken in costs one line, and writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_intake import asked, call, log

RAISING = {
    "return text[1000]": "IndexError in line 2: string index out of range",
    "return {}[text]": "KeyError in line 2",
    "raise SystemExit(0)": "SystemExit in line 2: 0",
    "return redact(text)": "RecursionError in line 2",
    "return missing(text)": "NameError in line 2: name 'missing' is not defined",
    "raise ValueError('one\\ntwo')": "ValueError in line 2: one two",
    "raise Exception": "Exception in line 2: Exception",
    "return text.encode('ascii')": "UnicodeEncodeError in line 2",
    "assert '@' not in text": "AssertionError in line 2",
    "raise MemoryError": "MemoryError in line 2",
    "return text, 1": "returned tuple, not a text",
    "yield text": "returned generator, not a text",
    "pass": "returned NoneType, not a text",
}


@pytest.mark.parametrize("body", RAISING)
def test_a_function_of_ones_own_that_fails_costs_one_line_with_the_row(
    tmp_path: Path, body: str
) -> None:
    code = tmp_path / "mine.py"
    code.write_text(f"def redact(text):\n    {body}\n")
    path = log(tmp_path, asked("Wo wohnt Müller (a@b.org)?", feedback="up"))
    outcome = call(path, "-o", tmp_path / "new", "--redact", f"{code}:redact")
    assert outcome.exit_code == 2, outcome.output
    assert outcome.stderr.count("\n") == 1
    said = outcome.stderr.removeprefix(f"error: {path}, line ")
    assert said.partition(": ")[2].startswith(f"--redact {code}:redact "), said
    assert RAISING[body] in outcome.stderr
    assert outcome.stderr.endswith("; nothing was written\n")
    names = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert names == {"log.jsonl", "mine.py"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def redact(text) return text", "expected ':'"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("REDACT = 1", "has no function redact"),
        ("1 / 0", "ZeroDivisionError in line 1: division by zero"),
        ("raise SystemExit(0)", "SystemExit in line 1: 0"),
        ("open('/nowhere/names.txt')", "FileNotFoundError in line 1"),
        ("def redact(): return ''", "TypeError: redact() takes 0 positional arguments"),
        (
            "def redact(text, names): return ''",
            "TypeError: redact() missing 1 required",
        ),
        ("async def redact(text): return text", "returned coroutine, not a text"),
    ],
)
def test_a_file_of_ones_own_that_does_not_fit_costs_one_line(
    tmp_path: Path, code: str, words: str
) -> None:
    (tmp_path / "mine.py").write_text(code + "\n")
    path = log(tmp_path, asked("Why?", feedback="up"))
    outcome = call(
        path, "-o", tmp_path / "new", "--redact", f"{tmp_path / 'mine.py'}:redact"
    )
    assert outcome.exit_code == 2, outcome
    assert words in " ".join(outcome.stderr.split())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("returned", ["'\\ud800'", "text + '\\udfff'", "''", "'\\0'"])
def test_whatever_text_a_function_of_ones_own_returns_can_be_written(
    tmp_path: Path, returned: str
) -> None:
    (tmp_path / "mine.py").write_text(f"def redact(text): return {returned}\n")
    path = log(tmp_path, asked("Why?", feedback="up"))
    outcome = call(
        path, "-o", tmp_path / "new", "--redact", f"{tmp_path / 'mine.py'}:redact"
    )
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit), (
        outcome
    )
    assert outcome.exit_code in (0, 2)
    names = {one.name for one in tmp_path.iterdir()} - {
        "__pycache__",
        "log.jsonl",
        "mine.py",
    }
    assert names <= {"new"}
