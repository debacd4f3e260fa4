"""R6: a disk without room, inodes, quota or the right to write: one line, and later it goes on.

Store and cache of a step are mounted with so much room, in a file system that only its process sees.
The step ends with status 2 and one line, leaves nothing behind, and ends well once there is room.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.promises.counting import Case
from tests.promises.small_campaign import STEPS, SmallCampaign, in_a_process

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_MOUNTS = 0x00020000
_NEW_USER = 0x10000000
_PRIVATE = (1 << 18) | (1 << 14)
_REMOUNT = 32
_READ_ONLY = 1
PLENTY = "size=64m,nr_inodes=20000"
PAGE_BYTES = 4096


@dataclass(frozen=True)
class Shortage:
    """One way in which a step has too little."""

    name: str
    folder: str
    """Folder of the campaign that is short of it."""
    apply: Callable[[Path], None]
    words: tuple[str, ...]
    """One of these is in the error."""


def _mount(folder: Path, options: str, flags: int = 0) -> None:
    status = _LIBC.mount(
        b"none", os.fsencode(folder), b"tmpfs", flags, options.encode()
    )
    if status:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))


def _room_for(num_bytes: int, folder: Path) -> None:
    used_pages = 1 + sum(
        -(-path.stat().st_size // PAGE_BYTES)
        for path in folder.rglob("*")
        if path.is_file()
    )
    size = used_pages * PAGE_BYTES + num_bytes
    _mount(folder, f"size={size}", _REMOUNT)


def _inodes(count: int, folder: Path) -> None:
    used = 1 + sum(1 for _ in folder.rglob("*"))
    _mount(folder, f"nr_inodes={used + count}", _REMOUNT)


def _read_only(folder: Path) -> None:
    _mount(folder, "size=64m", _REMOUNT | _READ_ONLY)


def _largest_file(num_bytes: int, folder: Path) -> None:
    # Not a signal, but an error of the write, as a quota of a user gives it.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))


NO_ROOM = ("no room for",)
SHORTAGES = (
    Shortage("no room in the store", "store", partial(_room_for, 0), NO_ROOM),
    Shortage("4 kB in the store", "store", partial(_room_for, 4096), NO_ROOM),
    Shortage("no inode in the store", "store", partial(_inodes, 0), NO_ROOM),
    Shortage("3 inodes in the store", "store", partial(_inodes, 3), NO_ROOM),
    Shortage(
        "a store that is read-only", "store", _read_only, ("Read-only file system",)
    ),
    Shortage("no room in the cache", "cache", partial(_room_for, 0), NO_ROOM),
    Shortage("8 kB in the cache", "cache", partial(_room_for, 8192), NO_ROOM),
    Shortage("6 inodes in the cache", "cache", partial(_inodes, 6), NO_ROOM),
    Shortage("a quota of 3 kB a file", ".", partial(_largest_file, 3000), NO_ROOM),
)


def cases(campaign: SmallCampaign) -> Iterator[Case]:
    """Yield each step with each shortage."""
    for shortage, step in itertools.product(SHORTAGES, STEPS):
        yield Case(
            f"{step}, {shortage.name}", partial(_check, campaign, step, shortage)
        )


def _check(campaign: SmallCampaign, step: str, shortage: Shortage) -> str:
    campaign.restore(step)
    outcome = campaign.folder / "outcome.json"
    outcome.unlink(missing_ok=True)
    log = campaign.folder / "said-mounts.txt"
    ended = in_a_process(
        partial(_in_small_folders, campaign, step, shortage, outcome), log
    )
    fault: str = (
        json.loads(outcome.read_text()) if ended.status == 0 else ended.said[-300:]
    )
    return fault


def _in_small_folders(
    campaign: SmallCampaign, step: str, shortage: Shortage, outcome: Path
) -> None:
    """Write what is wrong with a step that has too little, and with the next one that has enough."""
    _see_own_mounts()
    kept = campaign.folder / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    campaign.store.mkdir(exist_ok=True)
    shutil.copytree(campaign.store, kept)
    campaign.cache.mkdir(mode=0o700)
    for folder in (campaign.store, campaign.cache):
        _mount(folder, PLENTY)
    shutil.copytree(kept, campaign.store, dirs_exist_ok=True)
    short_of_it = campaign.folder / shortage.folder
    if "quota" not in shortage.name:
        shortage.apply(short_of_it)
        first = campaign.carry_out(step)
    else:
        first = campaign.carry_out(step, arm=partial(shortage.apply, short_of_it))
    fault = _first_fault(campaign, shortage, first.status, first.errors, first.said)
    for folder in (campaign.store, campaign.cache):
        _mount(folder, PLENTY, _REMOUNT)
    again = campaign.carry_out(step)
    fault = fault or (again.said[-300:] if again.status else campaign.difference(step))
    outcome.write_text(json.dumps(fault))


def _see_own_mounts() -> None:
    """Let this process and its children alone see what it mounts."""
    uid, gid = os.getuid(), os.getgid()
    if _LIBC.unshare(_NEW_MOUNTS | (_NEW_USER if uid else 0)):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    if uid:
        # A user is root of a namespace of its own.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    _LIBC.mount(b"none", b"/", None, _PRIVATE, None)


def _first_fault(
    campaign: SmallCampaign,
    shortage: Shortage,
    status: int,
    errors: list[str],
    said: str,
) -> str:
    """Return what is wrong with the end of a step that had too little."""
    if status == 0:
        # So little is written there that it was enough.
        return ""
    if status != 2 or len(errors) != 1:
        return f"status {status}, {len(errors)} lines of error: {said[-300:]}"
    if not any(words in errors[0] for words in shortage.words):
        return f"it does not say what is short: {errors[0]}"
    if str(campaign.folder / shortage.folder) not in errors[0]:
        return f"it does not say where: {errors[0]}"
    folders = (campaign.store / ".incoming", campaign.cache / "scratch")
    left = [path for folder in folders for path in folder.glob("*")]
    return f"left behind: {left[:2]}" if left else ""
