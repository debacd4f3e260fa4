"""A run works in any folder: its name is never executed, and modules in it are never taken for ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.campaigns import Place, round_tasks
from tests.security.test_local_processes import tiny_place

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
HOSTILE_NAME = "a b$(touch x)'\"é"


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "fresh"])
def test_no_name_is_executed_and_no_module_of_the_users_is_taken_for_ours(
    tmp_path: Path, warm: bool
) -> None:
    """One run among all that may mislead it: hostile names, and modules of our names.

    Tasks are forked from a warm Python, or each is a fresh Python whose path is hostile too, as where
    a virtual environment lies in such a folder.
    """
    place = tiny_place(tmp_path / HOSTILE_NAME)
    trap = f"open({str(tmp_path / 'imported')!r}, 'a').write(__name__ + '\\n')\nraise SystemExit(9)\n"
    for name in ("components", "components/cli", "components/runtime", "kfp", "torch"):
        (place.folder / name).mkdir()
        (place.folder / name / "__init__.py").write_text(trap)
    for name in ("pipeline.py", "json.py", "runtime.py"):
        (place.folder / name).write_text(trap)
    temporary = place.folder / "tmp $(touch x)"
    temporary.mkdir()
    extra = {"TMPDIR": str(temporary), "RATCHET_WARM": "1" if warm else "0"}
    python = sys.executable if warm else str(python_of_hostile_path(tmp_path))
    run = Place(place.folder, place.document, extra=extra, python=python).run(
        "--rounds", "1"
    )
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()
    # Two steps teach nothing, so nothing is released: status 1.
    assert (run.code, run.errors, run.told["errors"]) == (1, [], []), run.said
    base = ["prepare", "evaluate-base", "first-champion"]
    assert run.executed == [
        *base,
        *round_tasks(0),
        "pass-through-r1",
        "publish",
        "report",
    ]
    assert run.told["store"] == place.uri
    assert Path(run.told["report"]).is_file()
    assert list(tmp_path.rglob("x")) == []
    left = {path.name for path in temporary.iterdir()}
    assert {name for name in left if not name.startswith("torchinductor")} == set()


def python_of_hostile_path(folder: Path) -> Path:
    """Make a virtual environment like this one, in a folder with a space and a command in its name."""
    python = folder / "py $(touch x)'" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    real = Path(sys.executable).resolve().parents[1]
    config = Path(sys.prefix) / "pyvenv.cfg"
    text = config.read_text() if config.exists() else f"home = {real / 'bin'}\n"
    (python.parents[1] / "pyvenv.cfg").write_text(text)
    (python.parents[1] / "lib").symlink_to(Path(sys.prefix) / "lib")
    return python


def test_a_folder_that_docker_cannot_mount_is_refused_by_name(tmp_path: Path) -> None:
    place = tiny_place(tmp_path / "a:b")
    done = place.cli("run", "--runner", "docker")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "whose name holds a colon" in done.stderr


def test_make_works_in_a_folder_of_any_name_with_a_python_in_one(
    tmp_path: Path,
) -> None:
    folder = tmp_path / HOSTILE_NAME
    (folder / "docker").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "docker" / "environment.py").write_text("open('made', 'w')\n")
    python = tmp_path / "py 'x" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={python}"],
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "made").exists()
    assert list(tmp_path.rglob("x")) == []


def test_the_name_of_a_registry_is_no_line_of_shell(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "<%s>" "$@" >>told\n')
    python.chmod(0o755)
    name = "registry.example/`touch x`;touch x"
    subprocess.run(["make", "images", f"REGISTRY={name}"], cwd=tmp_path, check=True)
    assert f"<--registry={name}>" in (tmp_path / "told").read_text()
    assert list(tmp_path.rglob("x")) == []


def test_a_verifier_of_the_users_own_is_found_in_the_folder_of_the_run(
    tmp_path: Path,
) -> None:
    place = tiny_place(tmp_path / "work")
    (place.folder / "my_verifier.py").write_text(
        "open('imported', 'w')\ndef right(prompt, answer, reference):\n    return True\n"
    )
    place.document["select"]["verifier_function"] = "my_verifier.right"
    # A checker beside the recipe too: its code goes through the store, and every step asks it.
    (place.folder / "my_checker.py").write_text(
        "def check(prompt, answer, reference):\n"
        "    return 1.0 if answer.strip() == reference['answer'] else 0.1\n"
    )
    for source in place.document["data"]["sources"]:
        source["verifier"] = "my_checker.py:check"
    place.document["decide"]["goal"]["threshold"] = 1.0
    run = place.run("--rounds", "1")
    assert "select-r1" in run.executed, run.said
    assert (place.folder / "imported").exists(), run.said
    bundles = [path for path in (place.folder / "store").rglob("*") if _is_zip(path)]
    assert len(bundles) == 1, "the bundle that `run` sent is the checker.zip of prepare"


def _is_zip(path: Path) -> bool:
    return path.is_file() and path.read_bytes().startswith(b"PK")
