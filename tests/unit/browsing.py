"""Pages in a real browser, Chromium without a window."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
    "--window-size=800,1000",
    "--virtual-time-budget=5000",
    "--dump-dom",
)


def open_page(page: str, folder: Path, outcome: str) -> dict[str, Any]:
    """Open a page until its scripts have run, and return what they tell.

    The page's console must stay empty: it would tell of refused styles and broken markup.

    Args:
        page: HTML.
        folder: Gets the page and the browser's profile.
        outcome: Id of the `pre` in which a script of the page leaves JSON.
    """
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [str(CHROMIUM), profile, *FLAGS, file.as_uri()],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr
    found = re.search(rf'<pre id="{outcome}">(.+?)</pre>', done.stdout)
    assert found, f"chromium ended with status {done.returncode}: {done.stderr[-2000:]}"
    told: dict[str, Any] = json.loads(html.unescape(found[1]))
    return told
