"""What a step gets from outside, as an argument: store, cache, clock, environment, progress."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.runtime.progress import Progress
from components.storage.cache import Cache
from components.storage.store import Store, open_store


@dataclass(frozen=True)
class Context:
    """The surroundings of one step. Nothing in a step reads them from anywhere else."""

    store: Store
    cache: Cache
    scratch: Path
    """Where temporary folders go; on the cache's file system, so that hard links work."""
    clock: Callable[[], float]
    """Seconds since the epoch."""
    started: float
    """When this step's process began, in seconds since the epoch."""
    environment: Mapping[str, str]
    progress: Progress
    costs: dict[str, float] = field(default_factory=dict)
    """What the step measures of itself (seconds, tokens); goes to the attempt record, never into a
    receipt."""

    def charge(self, name: str, amount: float) -> None:
        """Add to a cost."""
        self.costs[name] = self.costs.get(name, 0.0) + amount

    @property
    def threads(self) -> int:
        """Cores this step may keep busy."""
        return len(os.sched_getaffinity(0))

    @property
    def shard_threads(self) -> int:
        """Cores for a step whose shards run side by side, RATCHET_SIDE_BY_SIDE of them on this
        machine."""
        return max(
            1, self.threads // max(1, int(self.environment.get("RATCHET_SIDE_BY_SIDE", "1")))
        )


def make_context(store_uri: str, environment: Mapping[str, str]) -> Context:
    """Surroundings of a real process. The cache is RATCHET_CACHE, else a folder of this user in the
    temporary one."""
    cache = Path(
        environment.get("RATCHET_CACHE", f"{tempfile.gettempdir()}/ratchet-cache-{os.getuid()}")
    )
    return Context(
        store=open_store(store_uri, environment),
        cache=Cache(cache / "objects"),
        scratch=cache / "scratch",
        clock=time.time,
        started=_process_start(),
        environment=environment,
        progress=Progress.from_environment(environment),
    )


def _process_start() -> float:
    """When this process began, from the kernel (so imports count); now, where there is no /proc."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(
            line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
        )
    except (OSError, StopIteration):
        return time.time()
    return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
