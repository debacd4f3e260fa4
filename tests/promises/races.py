"""R4: of writers at once one wins, and all read what it wrote."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from components.storage.store import Store
from tests.promises.counting import Case

ROOT = Path(__file__).resolve().parents[2]
PROCESS = """
import sys
from components.storage.store import open_store
uri, name, rounds = sys.argv[1:]
store = open_store(uri, {})
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(rounds)):
    if store.put_bytes(f"steps/race/{number}.json", name.encode(), if_absent=True):
        print(number, flush=True)
"""


def thread_cases(store: Store, count: int, num_threads: int) -> Iterator[Case]:
    """Yield races of threads for one key each."""
    for number in range(count):
        yield Case(f"threads, {number}", partial(_race, store, number, num_threads))


def _race(store: Store, number: int, num_threads: int) -> str:
    key = f"steps/threads/{number}.json"
    begin = threading.Barrier(num_threads)

    def write(name: int) -> tuple[bool, bytes]:
        begin.wait()
        won = store.put_bytes(key, f"{name}".encode(), if_absent=True)
        return won, store.get_bytes(key)

    with ThreadPoolExecutor(num_threads) as pool:
        outcomes = list(pool.map(write, range(num_threads)))
    winners = [name for name, (won, _) in enumerate(outcomes) if won]
    read = {content for _, content in outcomes}
    if len(winners) != 1:
        return f"{len(winners)} writers won"
    return (
        "" if read == {f"{winners[0]}".encode()} else f"different readers read {read}"
    )


def process_cases(
    uri: str, store: Store, rounds: int, num_processes: int
) -> Iterator[Case]:
    """Yield races of processes, which write all keys in the same order."""
    winners = _winners(uri, rounds, num_processes)
    for number in range(rounds):
        yield Case(
            f"processes, {number}", partial(_judge, store, number, winners[number])
        )


def _winners(uri: str, rounds: int, num_processes: int) -> list[list[str]]:
    command = [sys.executable, "-c", PROCESS, uri]
    processes = {
        f"writer-{index}": subprocess.Popen(
            [*command, f"writer-{index}", str(rounds)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(num_processes)
    }
    for process in processes.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes.values():
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    winners: list[list[str]] = [[] for _ in range(rounds)]
    for name, process in processes.items():
        output, _ = process.communicate(timeout=300)
        for line in output.splitlines():
            winners[int(line)].append(name)
    return winners


def _judge(store: Store, number: int, winners: list[str]) -> str:
    if len(winners) != 1:
        return f"{len(winners)} writers won"
    stored = store.get_bytes(f"steps/race/{number}.json").decode()
    return "" if stored == winners[0] else f"{winners[0]} won, {stored} is stored"
