"""Pages in a real browser, Chromium without a window."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
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


AXE = ROOT / ".github" / "lint" / "node_modules" / "axe-core" / "axe.min.js"
"""Deque's axe (MPL 2.0), which `npm ci --prefix .github/lint` installs."""
# Looks into what is folded too.
ASK_AXE = """<pre id="faults"></pre><script>{axe}</script><script>
document.querySelectorAll("details").forEach((one) => {{ one.open = true; }});
axe.run(document, {{ resultTypes: ["violations"] }}).then((found) => {{
  const faults = found.violations.map((one) => `${{one.id}} (${{one.impact}}): ${{one.nodes[0].html}}`);
  document.getElementById("faults").textContent = JSON.stringify({{ faults }});
}});
</script>"""
DARK = "--blink-settings=preferredColorScheme=0"
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def why_no_axe() -> str:
    """Return why pages cannot be held against the rules of accessibility; empty if they can."""
    if CHROMIUM is None:
        return "no chromium on this machine"
    return "" if AXE.is_file() else "axe is not installed: npm ci --prefix .github/lint"


def faults_of(page: str, folder: Path, *, dark: bool) -> list[str]:
    """Return what axe calls violations of WCAG and of good practice in a page of ours."""
    # The page's own policy lets no script run.
    page = _POLICY.sub("", page)
    ask = ASK_AXE.format(axe=AXE.read_text(encoding="utf-8"))
    asked = page.replace("</body>", f"{ask}</body>")
    told = open_page(asked, folder, "faults", *([DARK] if dark else []))
    faults: list[str] = told["faults"]
    return faults


def open_page(page: str, folder: Path, outcome: str, *flags: str) -> dict[str, Any]:
    """Open a page until its scripts have run, and return what they tell.

    The page's console must stay empty: it would tell of refused styles and broken markup.

    Args:
        page: HTML.
        folder: Gets the page and the browser's profile.
        outcome: Id of the `pre` in which a script of the page leaves JSON.
        flags: More settings of the browser.
    """
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [str(CHROMIUM), profile, *FLAGS, *flags, file.as_uri()],
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
