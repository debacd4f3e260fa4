"""docs/extending.md works: its files and changes are applied to a copy of the tree, where the tests
that it shows must pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
COPIED = (
    "components",
    "docker",
    "manifests/profiles",
    "package",
    "pipeline.py",
    "pyproject.toml",
    "recipes",
    "tests/__init__.py",
    "tests/conftest.py",
    "tests/doubles",
    "tests/unit",
    "tests/waiting.py",
)
_BLOCK = re.compile(
    r"(?:^`(?P<path>[\w./-]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code of the page."""

    path: str
    """The file that the line above the block names; empty if there is none."""
    language: str
    text: str


def blocks() -> list[Block]:
    page = PAGE.read_text(encoding="utf-8")
    found = [
        Block(match["path"] or "", match["language"], match["text"])
        for match in _BLOCK.finditer(page)
    ]
    assert page.count("```") == 2 * len(found)
    return found


def hunks(diff: str) -> Iterator[tuple[str, str]]:
    """Yield the text before and after each change of a diff."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        yield (
            "".join(line[1:] for line in lines if line[0] in " -"),
            "".join(line[1:] for line in lines if line[0] in " +"),
        )


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with all that the page says."""
    tree = tmp_path_factory.mktemp("extended")
    for name in COPIED:
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, target)
    for block in blocks():
        assert block.path, f"no file is named above this block:\n{block.text}"
        path = tree / block.path
        if block.language != "diff":
            assert not path.exists(), f"{block.path} is there already"
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            continue
        text = path.read_text(encoding="utf-8")
        for old, new in hunks(block.text):
            assert text.count(old) == 1, (
                f"{block.path} holds this {text.count(old)} times:\n{old}"
            )
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
    return tree


def python(tree: Path, *arguments: str) -> str:
    """Run Python in the copy, and return what it said; it must succeed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_tests_that_the_page_shows_pass_and_those_of_the_house(
    extended: Path,
) -> None:
    shown = [
        block.path for block in blocks() if Path(block.path).name.startswith("test_")
    ]
    assert len(shown) == 6
    house = [
        "tests/unit/test_house.py",
        "tests/unit/test_images.py::test_every_step_runs_in_the_image_that_its_shell_names",
    ]
    said = python(
        extended, "-m", "pytest", "-q", "-p", "no:cacheprovider", *shown, *house
    )
    assert "skipped" not in said


def test_the_new_step_obeys_the_import_rules(extended: Path) -> None:
    command = (
        "from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    said = python(extended, "-c", command, "--no-logo", "--no-cache")
    assert " 0 broken" in said


def test_the_new_step_is_in_the_compiled_pipeline_and_has_a_readme(
    extended: Path,
) -> None:
    python(
        extended,
        "pipeline.py",
        "compile",
        "recipes/demo.yaml",
        "-o",
        "package.yaml",
        "--rounds",
        "3",
    )
    package, _ = yaml.safe_load_all((extended / "package.yaml").read_text())
    images = {
        executor["container"]["image"]
        for name, executor in package["deploymentSpec"]["executors"].items()
        if name.startswith("exec-tally-r")
    }
    assert images == {"ratchet/cpu:dev"}
    python(extended, "-m", "components.cli.readmes")
    readme = (extended / "components" / "tally" / "README.md").read_text()
    assert "`mix` (Receipt): Receipt of select." in readme


def test_the_page_is_written_as_the_code_is(extended: Path) -> None:
    files = [block.path for block in blocks() if block.path.endswith(".py")]
    python(extended, "-m", "ruff", "check", "--no-cache", *files)
    python(extended, "-m", "ruff", "format", "--no-cache", "--check", *files)
