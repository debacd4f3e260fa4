"""Each line of a step's log names its run, round and step, whoever wrote it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from components.errors import UserError
from components.runtime.log_lines import (
    LineSplitter,
    LineStamper,
    LogSubject,
    format_from,
    json_line,
    message_of,
)
from components.runtime.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
TRAIN = LogSubject(run="demo-0123456789", round=2, step="train", task="train-r2")
KEYS = ["timestamp", "level", "message", "run", "round", "step", "task"]


def records(text: str) -> list[dict[str, object]]:
    """Return the lines of a log, each of which has to be an object with the keys.

    Errors have their message a second time, for Kubeflow's archive.
    """
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        again = ["log"] if line["level"] == "ERROR" else []
        assert list(line) == KEYS + again
        assert line.get("log", line["message"]) == line["message"]
    return lines


@pytest.mark.parametrize(
    "message",
    [
        "plain",
        "two\nlines",
        'a "quote"',
        "ünï ✓ 漢字",
        "",
        "{}",
        "tab\tand \x1b[31mred",
        "null",
    ],
)
def test_a_line_of_any_text_is_one_object_and_gives_the_text_back(message: str) -> None:
    line = json_line(message, "INFO", TRAIN, 1_790_000_000.25)
    assert "\n" not in line
    (fields,) = records(line)
    assert fields == {
        "timestamp": "2026-09-21T14:13:20.250Z",
        "level": "INFO",
        "message": message,
        **asdict(TRAIN),
    }
    assert message_of(line) == message


@pytest.mark.parametrize(
    "line",
    [
        "train-r2 · 34 %",
        '{"timestamp": "2026"}',
        '{"timestamp": broken',
        '{"timestamp": "x", "level": 1, "message": "m"}',
        "[1, 2]",
        "",
    ],
)
def test_a_line_of_another_form_is_its_own_message(line: str) -> None:
    assert message_of(line) == line
    assert json.loads(LineStamper(TRAIN).stamp(line, 0.0))["message"] == line


def test_a_line_shows_no_password_of_an_address() -> None:
    line = LineStamper(TRAIN).stamp("no answer from http://ada:secret@host/path", 0.0)
    assert "secret" not in line


def test_lines_of_others_belong_to_the_task_that_spoke_last() -> None:
    stamper = LineStamper(LogSubject(step="train"))
    lines = [
        "a library is imported",
        json_line(
            "of run demo-0123456789", "DEBUG", LogSubject("demo-0123456789", 2), 0.0
        ),
        "a library warns",
        json_line("started", "INFO", TRAIN, 0.0),
        "loss 0.5",
        json_line("of a worker", "WARNING", LogSubject(), 0.0),
    ]
    stamped = records("\n".join(stamper.stamp(line, 0.0) for line in lines))
    assert [(line["run"], line["round"]) for line in stamped] == [
        ("", None),
        *[("demo-0123456789", 2)] * 5,
    ]
    # The command said it, before the step did.
    assert {line["step"] for line in stamped} == {"train"}
    assert stamped[-1]["level"] == "WARNING"


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("error (UserError): no such column", "ERROR"),
        ("    error (Corrupt): shard 3 is damaged", "ERROR"),
        ("Traceback (most recent call last):", "ERROR"),
        ("ERROR kfp: it failed", "ERROR"),
        ("CRITICAL: out of disk", "ERROR"),
        ("[WARNING] deprecated", "WARNING"),
        ("[2026-11-30 21:20:23,543] [WARNING] [accelerator.py:213] no GPU", "WARNING"),
        ("2026-11-30 21:20:23,543 - trl.trainer - ERROR - no rows", "ERROR"),
        ("2026-11-30T21:20:23.543Z ERROR no rows", "ERROR"),
        ("[rank0]: ERROR no rows", "ERROR"),
        ("3 of 4 tries ended with an ERROR", "INFO"),
        pytest.param("1,234 " * 170_000, "INFO", id="a million digits"),
        ("W1130 16:20:41.123000 77 torch/distributed/run.py:793] ", "WARNING"),
        ("[E1130 16:20:41 ProcessGroupNCCL.cpp:633] timeout", "ERROR"),
        ("INFO 11-30 engine.py: ready", "INFO"),
        ("DEBUG of a library", "DEBUG"),
        ("WARNINGS are few", "INFO"),
        ("train-r2 · 34 %", "INFO"),
        ("Errors: 0", "INFO"),
    ],
)
def test_the_level_of_a_library_s_line_is_its_first_word(line: str, level: str) -> None:
    assert json.loads(LineStamper(TRAIN).stamp(line, 0.0))["level"] == level


def test_a_line_without_an_end_does_not_swallow_the_next_one() -> None:
    error = json_line("error (UserError): no row", "ERROR", TRAIN, 0.0)
    unfinished, own = records(LineStamper(TRAIN).stamp(f"loss 0.5{error}", 0.0))
    assert (unfinished["message"], unfinished["level"]) == ("loss 0.5", "INFO")
    assert (own["message"], own["level"]) == ("error (UserError): no row", "ERROR")
    assert (
        message_of(f"loss 0.5{error}").splitlines()[-1] == "error (UserError): no row"
    )


def test_bytes_are_cut_into_lines_wherever_they_come_apart() -> None:
    text = "eins\nzwei ✓\rdrei\r\n\nvier".encode()
    for size in range(1, len(text) + 1):
        splitter = LineSplitter()
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        lines = [
            line for piece in pieces for line in splitter.add(piece)
        ] + splitter.end()
        assert [line for line in lines if line] == ["eins", "zwei ✓", "drei", "vier"]


def test_output_without_line_ends_does_not_fill_the_memory() -> None:
    splitter = LineSplitter()
    lines = [line for _ in range(40) for line in splitter.add(b"x" * 65536)]
    assert sum(map(len, lines)) + len(splitter.end()[0]) == 40 * 65536
    assert max(map(len, lines)) <= LineSplitter.MAX_BYTES + 65536


def test_a_step_speaks_as_the_variable_says(capfd: pytest.CaptureFixture[str]) -> None:
    progress = Progress.from_environment({"RATCHET_LOG_FORMAT": "json"})
    progress.begin(TRAIN)
    progress.update(34, 100, tokens_per_second=1200, text="loss 0.5")
    progress.warn("the disk is slow")
    lines = records(capfd.readouterr().err)
    assert [line["message"] for line in lines] == [
        "train-r2 · 0 % · started",
        "train-r2 · 34 % · loss 0.5 · 1,200 tokens/s",
        "train-r2 · the disk is slow",
    ]
    assert [line["level"] for line in lines] == ["INFO", "INFO", "WARNING"]
    assert all(
        (line["run"], line["round"], line["step"]) == (TRAIN.run, 2, "train")
        for line in lines
    )
    for environment in ({}, {"RATCHET_LOG_FORMAT": "text"}, {"RATCHET_LOG_FORMAT": ""}):
        Progress.from_environment(environment).begin(TRAIN)
        assert capfd.readouterr().err == "train-r2 · 0 % · started\n"


@pytest.mark.parametrize("name", ["yaml", "JSON", "Text", "1", "json,text"])
def test_another_format_is_refused(name: str) -> None:
    with pytest.raises(
        UserError, match=f"RATCHET_LOG_FORMAT={name}: there are text and json"
    ):
        format_from({"RATCHET_LOG_FORMAT": name})


STEP = """
import os, subprocess, sys, warnings
from components.runtime.log_lines import LogSubject
from components.runtime.progress import Progress
print("of an import", flush=True)
progress = Progress.from_environment(os.environ)
progress.begin(LogSubject("demo-0123456789", 2, "train", "train-r2"))
warnings.warn("of a library")
os.write(1, b"of compiled code\\rhalf of a bar")
os.write(1, b"\\n")
subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('of a worker, without an end')"])
progress.say("error (UserError): row 7 is too long", "ERROR")
sys.exit(2)
"""


@pytest.mark.process
def test_every_line_in_a_container_is_an_object_that_names_run_round_and_step(
    tmp_path: Path,
) -> None:
    done = run_supervised(tmp_path, STEP)
    assert done.returncode == 2
    lines = records(done.stdout) + records(done.stderr)
    assert {(line["run"], line["round"], line["step"]) for line in lines} == {
        ("demo-0123456789", 2, "train")
    }
    messages = {line["message"] for line in lines}
    assert {
        "of an import",
        "of compiled code",
        "half of a bar",
        "of a worker, without an end",
        "train-r2 · 0 % · started",
    } <= messages
    assert records(done.stderr)[-1]["message"] == "error (UserError): row 7 is too long"


@pytest.mark.process
def test_the_last_words_of_a_killed_step_are_not_lost(tmp_path: Path) -> None:
    killed = STEP.replace("sys.exit(2)", "os.kill(os.getpid(), 9)")
    done = run_supervised(tmp_path, killed, "--first-pause=0.01")
    assert done.returncode == 137
    lines = records(done.stderr)
    errors = [line for line in lines if line["level"] == "ERROR"]
    assert len(errors) == done.stderr.count("supervisor: try") == 4
    assert all(line["run"] == "demo-0123456789" for line in lines)


@pytest.mark.process
def test_no_line_of_many_is_lost_when_a_step_ends(tmp_path: Path) -> None:
    done = run_supervised(tmp_path, "print(*range(20_000), sep='\\n')")
    assert [line["message"] for line in records(done.stdout)] == list(
        map(str, range(20_000))
    )


@pytest.mark.process
def test_the_lines_in_a_container_are_text_where_the_variable_says_so(
    tmp_path: Path,
) -> None:
    done = run_supervised(tmp_path, STEP, log_format="text")
    assert done.stderr.endswith("error (UserError): row 7 is too long\n")
    assert "train-r2 · 0 % · started\n" in done.stderr
    assert run_supervised(tmp_path, STEP, log_format="yaml").returncode == 2


@pytest.mark.process
def test_a_step_that_never_says_its_run_is_heard_all_the_same(tmp_path: Path) -> None:
    done = run_supervised(tmp_path, "import sys; print('no state'); sys.exit('at all')")
    (out,), (error,) = records(done.stdout), records(done.stderr)
    assert (out["message"], error["message"]) == ("no state", "at all")
    assert (out["run"], out["round"], out["step"]) == ("", None, "train")


def run_supervised(
    folder: Path, script: str, *options: str, log_format: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a step of a script under the supervisor, as KFP's launcher starts it."""
    (folder / "step.py").write_text(script)
    step = [sys.executable, str(folder / "step.py"), "--function_to_execute", "train"]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "components.runtime.supervisor",
            "--hours=1",
            *options,
            "--",
            *step,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RATCHET_LOG_FORMAT": log_format},
        capture_output=True,
        text=True,
        timeout=120,
    )
