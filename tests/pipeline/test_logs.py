"""The log of a local run: text by default, and where it is asked for a JSON object a line."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from tests.security.test_local_processes import tiny_place

KEYS = {"timestamp", "level", "message", "run", "round", "step", "task"}


def log_of(folder: Path) -> str:
    """Return the log of the last run in a folder."""
    logs = (folder / ".ratchet" / "logs").glob("*/log.txt")
    return max(logs, key=lambda path: path.stat().st_mtime).read_text(encoding="utf-8")


def test_every_line_of_a_run_is_an_object_that_names_run_round_and_step(
    tmp_path: Path,
) -> None:
    place = replace(tiny_place(tmp_path), extra={"RATCHET_LOG_FORMAT": "json"})
    done = place.run("--rounds", "1")
    lines = [json.loads(line) for line in log_of(tmp_path).splitlines()]
    # The last line of the report has the verdict as well, in a field of its own.
    (verdict,) = [line for line in lines if "log" in line]
    assert verdict.pop("log").startswith("ratchet-verdict {")
    assert verdict["step"] == "report"
    assert all(set(line) == KEYS for line in lines)
    rounds = defaultdict(set)
    for line in lines:
        assert line["run"] == done.told["run_id"], line
        rounds[line["step"]].add(line["round"])
    # Those without a step are of the run itself.
    del rounds[""]
    assert rounds["train"] == rounds["decide"] == {0}
    assert rounds["evaluate"] == {-1, 0}
    assert rounds["prepare"] == {0}
    assert rounds["report"] == {None}
    executor = [line for line in lines if "KFP Executor" in line["message"]]
    assert executor
    assert all(line["step"] for line in executor)
    # People see what they always see.
    assert "✓ train-r0" in done.said


def test_a_task_that_fails_is_told_as_ever(tmp_path: Path) -> None:
    place = tiny_place(tmp_path)
    assert place.cli("run", "--rounds", "1").returncode in (0, 1)
    for folder in (place.store / "objects", tmp_path / "store-cache"):
        shutil.rmtree(folder)
    errors = []
    for log_format in ("text", "json"):
        done = replace(place, extra={"RATCHET_LOG_FORMAT": log_format}).cli(
            "run", "--rounds", "1"
        )
        assert done.returncode == 3, done.stderr
        told = done.stderr.split(" (log: ")[0]  # Each has a file of its own.
        errors.append([line for line in told.splitlines() if line.startswith("error")])
    assert errors[0] == errors[1]
    assert len(errors[0]) == 1
    lines = [json.loads(line) for line in log_of(tmp_path).splitlines()]
    [error] = [line for line in lines if line["message"].startswith("error (")]
    assert (error["level"], error["step"]) == ("ERROR", "prepare")
    assert error["run"]


def test_another_format_ends_a_run_before_it_begins(tmp_path: Path) -> None:
    place = replace(tiny_place(tmp_path), extra={"RATCHET_LOG_FORMAT": "yaml"})
    done = place.cli("run")
    assert done.returncode == 2
    assert "RATCHET_LOG_FORMAT=yaml: there are text and json" in done.stderr
    assert not (tmp_path / "store").exists()
