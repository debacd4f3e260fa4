"""S8: another user of the machine gains nothing from a run with the umask that most people have.

The run's folders are below one that everybody may enter. Each attempt is made by a process with
another uid; it prints what it gained.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from components.errors import UserError
from components.storage.cache import Cache
from components.storage.store import open_store
from tests.promises.counting import Case
from tests.promises.small_campaign import (
    STEPS,
    SmallCampaign,
    be_a_process,
    in_a_process,
)

STRANGER = 65534
DENIED = "denied"
Attempt = Callable[[SmallCampaign, int], object]
"""What a stranger tries, given a process of the run; raises OSError if it may not."""


def _first(folder: Path) -> Path:
    return next(path for path in sorted(folder.rglob("*")) if path.is_file())


def _write(path: Path) -> object:
    return path.write_text("{}")


ATTEMPTS: dict[str, Attempt] = {
    "list the cache": lambda campaign, pid: os.listdir(campaign.cache / "objects"),
    "list the temporary files": lambda campaign, pid: os.listdir(
        campaign.cache / "scratch"
    ),
    "write into the cache": lambda campaign, pid: _write(
        campaign.cache / "objects" / "planted"
    ),
    "write a temporary file": lambda campaign, pid: _write(
        campaign.cache / "scratch" / "x"
    ),
    "rename the cache": lambda campaign, pid: campaign.cache.rename(
        campaign.folder / "mine"
    ),
    "overwrite a receipt": lambda campaign, pid: _write(
        _first(campaign.store / "steps")
    ),
    "delete a receipt": lambda campaign, pid: _first(campaign.store / "steps").unlink(),
    "rename a receipt": lambda campaign, pid: _first(campaign.store / "steps").rename(
        campaign.store / "steps" / "x.json"
    ),
    "make a receipt": lambda campaign, pid: _write(
        campaign.store / "steps" / "prepare" / "x.json"
    ),
    "overwrite an object": lambda campaign, pid: _write(
        _first(campaign.store / "objects")
    ),
    "make an object": lambda campaign, pid: _write(
        campaign.store / "objects" / "planted"
    ),
    "make progress": lambda campaign, pid: _write(campaign.store / "progress" / "x"),
    "change an attempt": lambda campaign, pid: _write(
        _first(campaign.store / "attempts")
    ),
    "make an attempt": lambda campaign, pid: _write(
        campaign.store / "attempts" / "x.json"
    ),
    "write an incoming file": lambda campaign, pid: _write(
        campaign.store / ".incoming" / "x"
    ),
    "make a line of a ledger": lambda campaign, pid: _write(
        campaign.store / "releases" / "x.json"
    ),
    "change the report": lambda campaign, pid: _write(_first(campaign.store / "runs")),
    "read a step's environment": lambda campaign, pid: Path(
        f"/proc/{pid}/environ"
    ).read_bytes(),
    "read a step's memory": lambda campaign, pid: os.open(
        f"/proc/{pid}/mem", os.O_RDONLY
    ),
    "see a step's open files": lambda campaign, pid: os.listdir(f"/proc/{pid}/fd"),
    "end a step": lambda campaign, pid: os.kill(pid, signal.SIGTERM),
    "enter a step's folder": lambda campaign, pid: os.listdir(f"/proc/{pid}/cwd/"),
}


def cases(campaign: SmallCampaign) -> Iterator[Case]:
    """Yield each attempt. The first begins a step that stays, the last ends it."""
    step = _WaitingStep(campaign)
    for name, attempt in ATTEMPTS.items():
        yield Case(name, partial(_attempted, campaign, step, attempt))
    yield Case("connect to a socket", partial(_sockets_of, step))
    yield Case("make the cache first", partial(_planted_cache, campaign, linked=False))
    yield Case(
        "make a link in place of it", partial(_planted_cache, campaign, linked=True)
    )


class _WaitingStep:
    """The process of a step that is done and waits: its files and memory are there to be attacked."""

    def __init__(self, campaign: SmallCampaign) -> None:
        self.campaign = campaign

    @functools.cached_property
    def pid(self) -> int:
        """Id of the process, which ends with this one."""
        last = list(STEPS)[-1]
        self.campaign.restore(last)
        ready = self.campaign.folder / "ready"
        pid = os.fork()
        if pid == 0:
            log = self.campaign.folder / "said-stays.txt"
            be_a_process(partial(_step_that_stays, self.campaign, last, ready), log)
        while not ready.exists():
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the step ended"
            time.sleep(0.01)
        return pid


def _step_that_stays(campaign: SmallCampaign, step: str, ready: Path) -> None:
    # PR_SET_PDEATHSIG: it ends with the process that began it.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    os.umask(0o022)
    campaign.do(step)
    (campaign.store / "progress").mkdir(exist_ok=True)
    (campaign.cache / "scratch").mkdir(exist_ok=True)
    ready.touch()
    time.sleep(3600)


def _become_a_stranger() -> None:
    os.setgroups([])
    os.setgid(STRANGER)
    os.setuid(STRANGER)


def _attempted(campaign: SmallCampaign, step: _WaitingStep, attempt: Attempt) -> str:
    work = partial(_as_a_stranger, campaign, step.pid, attempt)
    ended = in_a_process(work, campaign.folder / "said-stranger.txt")
    return (
        ""
        if ended.said.startswith(DENIED)
        else f"the stranger may: {ended.said[-200:]}"
    )


def _as_a_stranger(campaign: SmallCampaign, pid: int, attempt: Attempt) -> None:
    _become_a_stranger()
    try:
        gained = attempt(campaign, pid)
    except PermissionError as error:
        print(DENIED, error)
    else:
        print(gained)


def _sockets_of(step: _WaitingStep) -> str:
    """Return words for each socket of a step's process that others could connect to."""
    links = [os.readlink(link) for link in Path(f"/proc/{step.pid}/fd").iterdir()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [
        line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]
    ]
    named = [row[7] for row in rows if len(row) > 7 and row[6] in inodes]
    listening = [
        line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
    ]
    named += [row[1] for row in listening if row[3] == "0A" and row[9] in inodes]
    return f"it listens on {named}" if named else ""


def _planted_cache(campaign: SmallCampaign, *, linked: bool) -> str:
    """Return what is wrong if a cache is used that a stranger has made before its owner."""
    open_folder = campaign.folder / f"open-{linked}"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    planted = open_folder / "ratchet-cache"

    def plant() -> None:
        _become_a_stranger()
        real = open_folder / "real"
        (real / "objects").mkdir(parents=True)
        if linked:
            planted.symlink_to(real)
        else:
            real.rename(planted)

    assert in_a_process(plant, campaign.folder / "said-plant.txt").status == 0
    store = open_store((campaign.folder / "other-store").as_uri(), {})
    content = open_folder.parent / "content"
    content.write_bytes(b"content")
    try:
        Cache(planted / "objects").adopt(content)
    except UserError as error:
        return "" if "belongs to user" in str(error) else f"it says {error}"
    return f"a planted cache was used, for {store.root}"
