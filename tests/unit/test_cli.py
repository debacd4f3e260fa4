"""The command line says what is wrong in one line before anything runs, and ends honestly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.cli.local.campaign_process import executed_tasks
from components.cli.local.follow import Tail
from tests.unit.commanding import ROOT, TINY, cli, command, environment
from tests.waiting import wait_until

pytestmark = pytest.mark.process
GOLDEN = ROOT / "tests" / "golden"
VERBS = (
    "init",
    "samples",
    "try",
    "export",
    "import",
    "intake",
    "estimate",
    "run",
    "sweep",
    "compile",
    "submit",
    "schedule",
    "doctor",
    "releases",
    "approve",
    "rollback",
    "announce",
    "serve",
    "upload",
    "runs",
    "diff",
    "explain",
    "watch",
    "review",
    "status",
    "show",
    "verify",
    "report",
    "schema",
)
HELP_PAGES = """
import runpy, sys
script, *verbs = sys.argv[1:]
for verb in ([], *([verb] for verb in verbs)):
    sys.argv = [script, *verb, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, verb
    print()
"""


def golden(name: str, text: str) -> None:
    """Compare with a golden file; RATCHET_GOLDEN=1 (`make golden`) writes it instead."""
    path = GOLDEN / name
    if os.environ.get("RATCHET_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path} is missing; make it with `make golden`"
    assert text == path.read_text(encoding="utf-8"), (
        f"{name} has changed; if that is meant: `make golden`"
    )


def test_the_help_of_every_verb_is_as_agreed(tmp_path: Path) -> None:
    # One process for the pages of all verbs; each of its own takes half a second.
    done = subprocess.run(
        [sys.executable, "-c", HELP_PAGES, str(ROOT / "pipeline.py"), *VERBS],
        cwd=tmp_path,
        env=environment(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    golden("cli-help.txt", done.stdout.removesuffix("\n"))


def test_a_verb_that_builds_no_pipeline_waits_for_neither_kfp_nor_torch(
    tmp_path: Path,
) -> None:
    python, *arguments = command("run", "no-such.yaml")
    done = subprocess.run(
        [python, "-X", "importtime", *arguments],
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 2
    assert "components.cli.local.run" in imported
    assert not imported & {"kfp", "torch", "transformers", "pipeline"}


def test_the_schema_of_recipes_is_as_agreed(tmp_path: Path) -> None:
    done = cli(tmp_path, "schema")
    assert done.returncode == 0
    golden("recipe-schema.json", done.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ("fly",),
        ("run",),
        ("run", "r.yaml", "--rouns", "3"),
        ("run", "r.yaml", "--rounds", "99"),
    ],
)
def test_wrong_usage_ends_with_status_2(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = cli(tmp_path, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("recipe", "arguments", "said"),
    [
        (None, (), "no such file"),
        ("name: [", (), "not YAML"),
        (TINY.replace("goal", "gaol"), (), "did you mean 'goal'?"),
        (TINY, ("--set", "decide.goal.threshold=3"), "decide.goal.threshold"),
        (
            TINY,
            ("--set", "select.human_share=0.4"),
            "select.human_share is called select.labelled_share now",
        ),
        (
            TINY,
            ("--store", "ftp://host/x"),
            "use file:///absolute/folder or s3://bucket/prefix",
        ),
        (TINY, ("--memory", "8g"), "--memory is for containers: add --runner docker"),
        (
            TINY,
            ("--resume-from", "file:///elsewhere/steps/decide/abc.json"),
            "is not in the store",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_anything_runs(
    tmp_path: Path, recipe: str | None, arguments: tuple[str, ...], said: str
) -> None:
    if recipe is not None:
        (tmp_path / "r.yaml").write_text(recipe)
    done = cli(tmp_path, "run", "r.yaml", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (tmp_path / ".ratchet" / "logs").exists()


def test_a_step_that_refuses_its_data_ends_the_run_with_status_2_and_names_the_log(
    tmp_path: Path,
) -> None:
    # A file that can be read; only prepare sees that its rows make no splits.
    (tmp_path / "data.jsonl").write_text('{"prompt": "1+1=", "completion": "2"}\n')
    (tmp_path / "r.yaml").write_text(
        "name: no-data\ndata: {sources: [{uri: data.jsonl}]}\ndecide: {goal: {threshold: 0.9}}\n"
    )
    done = cli(tmp_path, "run", "r.yaml", "--rounds", "1", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"]) == (2, 2)
    assert told["executed"] == ["prepare", "report"]
    assert "data: split" in done.stderr
    assert "Traceback" not in done.stderr
    assert "data: split" in Path(told["log"]).read_text()
    page = Path(told["report"]).read_text()
    assert "data: split" in page
    assert "prepare" in page


def test_a_shipped_recipe_is_used_where_the_folder_has_none_of_its_name(
    tmp_path: Path,
) -> None:
    done = cli(tmp_path, "run", "recipes/demo.yaml", "--set", "decide.goal.threshold=3")
    shipped = ROOT / "recipes" / "demo.yaml"
    note = f"there is no recipes/demo.yaml here; using the one that comes with Ratchet: {shipped}"
    assert done.stderr.splitlines()[0] == note
    assert f"{shipped}: decide.goal.threshold" in done.stderr
    assert (done.returncode, done.stdout) == (2, "")


def test_the_users_own_recipe_comes_before_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.yaml").write_text("name: [")
    done = cli(tmp_path, "run", "recipes/demo.yaml")
    assert (done.returncode, "comes with Ratchet" in done.stderr) == (2, False)
    assert "recipe recipes/demo.yaml: not YAML" in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "demo.yaml",
        "recipes/no-such.yaml",
        "recipes/../tests/golden/ir-cpu.yaml",
        "recipes",
    ],
)
def test_no_other_file_is_taken_for_a_shipped_recipe(tmp_path: Path, name: str) -> None:
    done = cli(tmp_path, "run", name)
    assert (done.returncode, "comes with Ratchet" in done.stderr) == (2, False)
    assert f"recipe {name}: no such file" in done.stderr


def test_ctrl_c_ends_every_process_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TINY)
    run = subprocess.Popen(
        command("run", "r.yaml"),
        cwd=tmp_path,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    logs = ".ratchet/logs/*/tasks.jsonl"
    wait_until(
        lambda: any("prepare" in file.read_text() for file in tmp_path.glob(logs)), run
    )
    run.send_signal(signal.SIGINT)
    _, said = run.communicate()
    assert run.returncode == 130
    assert (
        "stopped; finished steps are kept. Continue with: python pipeline.py run r.yaml"
        in said
    )
    assert processes_in(tmp_path) == []


def processes_in(folder: Path) -> list[str]:
    """Command lines of the processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder and (
                process / "cmdline"
            ).read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_compile_writes_a_pipeline_with_the_recipe_as_default(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TINY)
    done = cli(
        tmp_path,
        "compile",
        "r.yaml",
        "-o",
        "p.yaml",
        "--rounds",
        "1",
        "--set",
        "seed=7",
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "p.yaml").read_text()
    assert "ratchet-tiny" in text
    assert "generate-r1" in text
    assert "generate-r2" not in text
    # Nothing of the user's is uploaded before the rest of the command is seen to be right.
    (tmp_path / "my_checker.py").write_text(
        "def check(prompt, answer, reference):\n    return True\n"
    )
    own = "data.sources=[{uri: qa.jsonl, verifier: 'my_checker.py:check'}]"
    store = tmp_path / "store"
    compile_own = ("compile", "r.yaml", "--store", store.as_uri(), "--set", own)
    assert cli(tmp_path, *compile_own, "-o", "p.txt").returncode == 2
    assert (
        cli(tmp_path, *compile_own, "-o", "p.yaml", "--profile", "none").returncode == 2
    )
    assert not store.exists()
    assert cli(tmp_path, *compile_own, "-o", "p.yaml").returncode == 0
    assert store.exists()


def test_executed_tasks_are_read_from_the_lines_of_kfp_with_and_without_colours() -> (
    None
):
    log = (
        "12:00:01 - INFO - Executing task \x1b[96m'prepare'\x1b[0m\n"
        "    some text of a step\n"
        "12:00:02 INFO Executing task 'generate-r1'\n12:00:02 INFO Executing task 'generate-r1'\n"
        "12:00:03 INFO Task 'generate-r1' finished with status SUCCESS\n"
    )
    assert executed_tasks(log) == ["prepare", "generate-r1", "generate-r1"]


def test_a_half_written_line_of_progress_is_read_once_it_is_whole(
    tmp_path: Path,
) -> None:
    path = tmp_path / "progress.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    path.write_text('{"task": "a"}\nnot json\n{"ta')
    assert tail.read() == [{"task": "a"}]
    path.write_text('{"task": "a"}\nnot json\n{"task": "b"}\n')
    assert tail.read() == [{"task": "b"}]
