"""Every command that a page shows in a block is one that its program takes, and every block is run by
a test or says why not (tests/command_blocks.toml)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.main
from typer.exceptions import TyperException

from components.cli.estimate.forecast import price_table
from components.cli.main import app
from components.cli.package.profiles import load_profile
from components.cli.shipped_recipes import find_recipe
from components.cli.sweep.grid import axes_of, combinations_of
from components.contracts.recipe_file import load_recipe
from components.errors import UserError
from tests.command_blocks import (
    ROOT,
    Block,
    command_blocks,
    commands_of,
    fates,
    fenced_blocks,
    scripts_of,
)
from tests.manifests.rendering import kubectl, named, overlay

NOWHERE = ("--server=http://127.0.0.1:9", "--request-timeout=1s")
"""Where no API server listens: kubectl asks it once it has understood the command."""
COMMAND_LINE: Any = typer.main.get_command(app)
OF_KUBEFLOW = {"svc/ml-pipeline-ui"}
PROGRAMS_OF_THE_SHELL = {"cat", "grep", "head", "ls", "openssl"}
LANGUAGES = {"bash", "sh", "text", "python", "yaml", "json", "diff"}
_COMMAND = re.compile(
    r"^(?:\$ )?(?:ratchet|make|kubectl|docker|pip|python3?) \S", re.MULTILINE
)
_PATH_OF_TESTS = re.compile(r"\btests/[\w/]+\.py")

every_block = pytest.mark.parametrize(
    "block", command_blocks(), ids=lambda block: block.name
)


def check_verb(words: list[str], block: Block) -> None:
    """Have the command line's own parser read a verb, and load the recipe with its changes."""
    command = COMMAND_LINE
    while isinstance(command, typer.core.TyperGroup):
        verb, *words = words
        assert verb in command.commands, verb
        command = command.commands[verb]
    options = command.make_context(command.name, list(words)).params
    price_table(tuple(options.get("price") or ()))
    if "profile" in options:
        load_profile(options["profile"])
    if options.get("recipe") is not None:
        path = recipe_of(options["recipe"], block)
        overrides = tuple(options.get("override") or ())
        load_recipe(path, overrides)
        if command.name == "sweep":
            combinations_of(path, overrides, axes_of(options["over"]))


def recipe_of(path: Path, block: Block) -> Path:
    """Return the recipe that a command names, or a shipped one for what `init` writes on the page."""
    if re.search(
        rf"\binit {re.escape(str(path))} ", (ROOT / block.page).read_text("utf-8")
    ):
        return ROOT / "recipes" / "demo.yaml"
    return find_recipe(path)


def check_target(words: list[str]) -> None:
    """Look for targets and variables in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        variable, is_set, _ = word.partition("=")
        form = rf"\$\$?[({{]?{variable}\b" if is_set else rf"^{re.escape(word)}:"
        assert re.search(form, makefile, re.MULTILINE), word


def check_kubectl(words: list[str]) -> None:
    """Have the real kubectl read a command, and look for what it names in the manifests."""
    done = subprocess.run(
        [kubectl(), *words, *NOWHERE],
        cwd=ROOT,
        env={"KUBECONFIG": "/dev/null", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "refused" in done.stderr.splitlines()[-1], done.stderr
    objects = overlay("local")
    resources = {named(manifest).lower() for manifest in objects}
    for word in words:
        if re.fullmatch(r"[a-z]+/[a-z-]+", word) and word not in OF_KUBEFLOW:
            assert word in resources, word
    if "secret" in words:
        name = words[words.index("secret") + 2]
        assert f"'{name}'" in str(objects), name
    if "namespace" in words:
        assert f"namespace/{words[-1]}" in resources


def check_script(words: list[str]) -> None:
    """Look for a script, and for the case of its verb with so many arguments."""
    script, *arguments = words
    text = (ROOT / script).read_text(encoding="utf-8")
    assert f'"{arguments[0]} {len(arguments)}"' in text, words


def check_command(words: list[str], block: Block) -> None:
    """Have a command's program say whether it would take it."""
    program, *arguments = words
    if program == "python" and arguments[0] == "pipeline.py":
        program, *arguments = "ratchet", *arguments[1:]
    if program == "ratchet":
        check_verb(arguments, block)
    elif program == "python":
        # A file that the block makes, or a line of code.
        assert arguments[0] == "-c" or f"> {arguments[0]} " in block.text
    elif program == "make":
        check_target(arguments)
    elif program == "kubectl":
        check_kubectl(arguments)
    elif program in scripts_of(block):
        check_script(words)
    else:
        assert program in PROGRAMS_OF_THE_SHELL, f"nobody knows how to check {program}"


def check_block(block: Block, folder: Path) -> None:
    """Check all commands of a block."""
    for words in commands_of(block, folder):
        check_command(words, block)


@every_block
def test_every_command_of_a_block_is_one_that_its_program_takes(
    block: Block, tmp_path: Path
) -> None:
    check_block(block, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "ratchet rum recipes/demo.yaml",
        "ratchet run recipes/demo.yml",
        "ratchet run recipes/demo.yaml --rouns 3",
        "ratchet run recipes/demo.yaml \\\n  --set decide.gaol.threshold=1",
        "python pipeline.py run recipes/demo.yaml --set decide.goal.threshold=3",
        "ratchet review exprot",
        "ratchet estimate recipes/demo.yaml --price coffee=1",
        "ratchet sweep recipes/demo.yaml --over seed=1,1",
        "ratchet submit recipes/demo.yaml --profile tiny",
        "echo question | ratchet try --compar",
        "X=$(ratchet status --jsn)",
        "make tset",
        "make images REGISTER=here",
        "kubectl aply -k manifests/overlays/local",
        "kubectl apply -k manifests/overlays/locl",
        "kubectl -n ratchet rollout status statefulset/ratchet-stor",
        "kubectl create namespace rachet",
        "kubectl -n ratchet create secret generic ratchet-keys --from-literal=A=b",
        "manifests/ci/sign.sh verify-release NAME VERSION",
        "python make_it.py",
        "rachet status",
        "# nothing to type",
        "ratchet status | (grep state",
    ],
)
def test_a_wrong_command_is_noticed(text: str, tmp_path: Path) -> None:
    block = Block("README.md", "bash", f"{text}\n")
    with pytest.raises((AssertionError, UserError, TyperException)):
        check_block(block, tmp_path)


def test_every_block_of_commands_is_run_by_a_test_or_says_why_not() -> None:
    treatments = fates()
    for block in command_blocks():
        covering = [fate for fate in treatments if fate.covers(block)]
        assert len(covering) == 1, f"{block.name}: once in tests/command_blocks.toml"
    for fate in treatments:
        assert any(fate.covers(block) for block in command_blocks()), (
            f"{fate} is of no block"
        )
        assert bool(fate.test) != bool(fate.why), fate
        for path in _PATH_OF_TESTS.findall(fate.test + fate.why):
            assert (ROOT / path).is_file(), path


def test_what_is_typed_is_marked_as_such() -> None:
    for block in fenced_blocks():
        assert block.language in LANGUAGES, (
            f"{block.name}: bash if it is typed, else text"
        )
        if block.language == "text":
            assert not _COMMAND.search(block.text), (
                f"{block.name}: its language is bash"
            )
