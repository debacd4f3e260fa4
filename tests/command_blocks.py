"""The blocks of shell commands on the Markdown pages, and the commands in them as bash reads them.

A block of commands has the language `bash` or `sh`; what is shown without being typed is `text`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = (
    "*.md",
    "docs/**/*.md",
    "components/*/README.md",
    "manifests/**/*.md",
    ".github/**/*.md",
)
PAGES = sorted(
    {
        path
        for pattern in PATTERNS
        for path in ROOT.glob(pattern)
        # Pages of the linters' packages, where these are installed.
        if "node_modules" not in path.parts
    }
)
SHELLS = ("bash", "sh")
PRINTED = "PRINTED"
"""What a recorded command prints, for those that use its output."""
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*)\n(?P<text>.*?)^ *```$", re.M | re.S
)
_SCRIPT = re.compile(r"(?<![\w./-])(?:[\w-]+/)+[\w-]+\.sh(?![\w/])")
# Words of a command are separated by zero bytes, and their number comes first. One `printf` is one
# write, so that commands of a pipe, which run at once, do not mix their words. All input is read,
# because who writes into a pipe that nobody reads ends with an error.
_RECORDER = f"""
command_not_found_handle() {{
    printf '%s\\0' "$#" "$@" >>"$RECORD"
    while read -r _; do :; done
    echo {PRINTED}
}}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    """Path of the page below the root of the repository."""
    language: str
    text: str

    @property
    def name(self) -> str:
        """Page and first line: lists of blocks name it by these."""
        return f"{self.page}: {self.text.partition(chr(10))[0]}"


def fenced_blocks() -> Iterator[Block]:
    """Yield all fenced blocks of all pages, in order."""
    for path in PAGES:
        page = path.relative_to(ROOT).as_posix()
        for match in _FENCE.finditer(path.read_text(encoding="utf-8")):
            indent = match["indent"]
            lines = match["text"].splitlines(keepends=True)
            text = "".join(line.removeprefix(indent) for line in lines)
            yield Block(page, match["language"], text)


def command_blocks() -> list[Block]:
    """Return the blocks that a reader types into a shell."""
    return [block for block in fenced_blocks() if block.language in SHELLS]


@dataclass(frozen=True)
class Fate:
    """What happens to some blocks of a page: tests run them, or there is a reason not to."""

    page: str
    begins: str = ""
    """How the first line of such a block begins."""
    test: str = ""
    """The file of tests that runs it; empty if none does."""
    why: str = ""
    """Why none does."""

    def covers(self, block: Block) -> bool:
        """Whether a block is one of these."""
        return block.page == self.page and block.text.startswith(self.begins)


def fates() -> list[Fate]:
    """Return what happens to all blocks of commands, by tests/command_blocks.toml."""
    document = tomllib.loads(
        Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    )
    return [Fate(**entry) for entry in document["blocks"]]


def blocks_run_by(test: str) -> list[Block]:
    """Return the blocks that a file of tests has to run."""
    covering = [fate for fate in fates() if fate.test == test]
    return [
        block
        for block in command_blocks()
        if any(fate.covers(block) for fate in covering)
    ]


def scripts_of(block: Block) -> set[str]:
    """Return the scripts of the repository that a block starts by their path."""
    return {name for name in _SCRIPT.findall(block.text) if (ROOT / name).is_file()}


def commands_of(block: Block, folder: Path) -> list[list[str]]:
    """Return the words of each command of a block, as bash splits and expands them.

    bash runs the block with no program on its path: what it does not find is recorded instead of
    started. Its own commands (`printf`, `test`, `export`) are carried out.

    Args:
        block: A block of commands.
        folder: Home and working folder; empty.

    Raises:
        AssertionError: bash finds a mistake.
    """
    record = folder / "commands"
    functions = (
        f'{name}() {{ command_not_found_handle {name} "$@"; }}'
        for name in scripts_of(block)
    )
    script = "\n".join([_RECORDER, *functions, block.text, "wait"])
    done = subprocess.run(
        [str(shutil.which("bash")), "-eu", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={"PATH": "/nonexistent", "HOME": str(folder), "RECORD": str(record)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{block.name}\n{done.stderr}"
    assert record.exists(), f"{block.name}: no command in it"
    words = iter(os.fsdecode(record.read_bytes()).split("\0")[:-1])
    return [[next(words) for _ in range(int(count))] for count in words]
