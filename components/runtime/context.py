"""The surroundings of a step, as one argument: store, cache, clock, environment, progress."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.runtime.progress import Progress
from components.storage.cache import Cache
from components.storage.store import Store, open_store

CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
"""(limit, usage) of a container's memory, in cgroup version 2 and 1."""


@dataclass(frozen=True)
class Context:
    """The surroundings of one step. Nothing in a step reads them from anywhere else."""

    store: Store
    cache: Cache
    scratch: Path
    """Folder of temporary folders; on the cache's file system, so that hard links work."""
    clock: Callable[[], float]
    """Seconds since the epoch."""
    started: float
    """Begin of this step's process, in seconds since the epoch."""
    environment: Mapping[str, str]
    progress: Progress
    costs: dict[str, float] = field(default_factory=dict)
    """Name of a measure of the step (seconds, tokens) → amount. Goes to the attempt record, never
    into a receipt."""

    def charge(self, name: str, amount: float) -> None:
        """Add to a cost."""
        self.costs[name] = self.costs.get(name, 0.0) + amount

    @property
    def asked_by(self) -> str:
        """User and machine for the ledger of releases: RATCHET_USER, else those of this process."""
        user = self.environment.get("RATCHET_USER") or self.environment.get("USER")
        return user or f"user {os.getuid()} on {platform.node() or 'unknown'}"

    @property
    def threads(self) -> int:
        """Cores this step may keep busy."""
        # Not os.cpu_count: that has all cores of the node, whichever this container may use.
        return len(os.sched_getaffinity(0))

    @property
    def free_memory_bytes(self) -> int:
        """Free memory of this process's container, or else of the machine."""
        meminfo = Path("/proc/meminfo").read_text(encoding="utf-8")
        available = next(
            line for line in meminfo.splitlines() if line.startswith("MemAvailable")
        )
        free = int(available.split()[1]) * 1024
        # /proc shows the node's memory in a pod too; the kernel ends a process at the pod's limit.
        for limit_file, usage_file in CGROUP_FILES:
            if not Path(limit_file).exists():
                continue
            limit = Path(limit_file).read_text(encoding="utf-8").strip()
            if limit != "max":
                usage = int(Path(usage_file).read_text(encoding="utf-8"))
                free = min(free, int(limit) - usage)
        return free

    @property
    def shard_threads(self) -> int:
        """Cores for one of RATCHET_SIDE_BY_SIDE shards on this machine."""
        # Local runs start all shards at once; with all cores for each they would slow each other.
        num_shards = int(self.environment.get("RATCHET_SIDE_BY_SIDE", "1"))
        return max(1, self.threads // max(1, num_shards))


class SteadyClock:
    """Seconds since the epoch that grow evenly: the machine's clock may be set while it is used."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read `wall`, the machine's clock, once; `steady` counts from then on."""
        self._steady = steady
        self._offset = wall() - steady()

    def __call__(self) -> float:
        """Return the seconds."""
        return self._offset + self._steady()


def make_context(
    store_uri: str, environment: Mapping[str, str], progress: Progress | None = None
) -> Context:
    """Return the surroundings of a real process.

    The cache is RATCHET_CACHE, else a folder of this user in the temporary one.

    Args:
        store_uri: Root of the store.
        environment: The variables of the process.
        progress: Of the step; None: a new one by the variables.
    """
    default_cache = f"{tempfile.gettempdir()}/ratchet-cache-{os.getuid()}"
    cache = Path(environment.get("RATCHET_CACHE", default_cache))
    return Context(
        store=open_store(store_uri, environment),
        cache=Cache(cache / "objects"),
        scratch=cache / "scratch",
        clock=SteadyClock(),
        started=_process_start(),
        environment=environment,
        progress=progress or Progress.from_environment(environment),
    )


def _process_start() -> float:
    """Return the begin of this process in seconds since the epoch; now, where there is no /proc."""
    # From the kernel, so that the seconds of importing torch count as time of the step.
    try:
        own_status = Path("/proc/self/stat").read_text()
    except OSError:
        return time.time()
    # `btime` of /proc/stat has whole seconds: tasks that ran one after the other seemed to overlap,
    # and the report counted the computing of only the longest of them.
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    # The second field is the program's name, which may hold spaces: count from its bracket.
    _, _, fields = own_status.rpartition(")")
    ticks_since_boot = int(fields.split()[19])
    return boot + ticks_since_boot / os.sysconf("SC_CLK_TCK")
