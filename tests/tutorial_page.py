"""The blocks of docs/tutorial.md, run in order as a reader would type them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "== block"
"""Begin of the line that is printed before each block."""


def blocks() -> list[str]:
    """Return the page's blocks of shell commands."""
    return _BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))


def run_blocks(
    folder: Path, model: str, timeout: float | None
) -> subprocess.CompletedProcess[str]:
    """Run all blocks in one shell, and return how it ended with all that it said.

    Args:
        folder: Where the reader works; empty.
        model: MODEL of the page.
        timeout: Seconds after which it is ended; None: never.
    """
    commands = folder / "bin"
    commands.mkdir()
    for name, arguments in (("ratchet", f"{ROOT / 'pipeline.py'}"), ("python", "")):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)
    numbered = enumerate(blocks())
    marked = "\n".join(f"echo '{MARK} {number}'\n{block}" for number, block in numbered)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RATCHET_")
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", marked],
        cwd=folder,
        env={
            **kept,
            "PATH": f"{commands}:{kept['PATH']}",
            "PYTHONPATH": str(ROOT),
            "MODEL": model,
            "COLUMNS": "60",
            "NO_COLOR": "1",
        },
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
