"""What it costs to be killed, and to trust no file of the cache: `python -m tests.benchmarks.resume`.

The demo is carried out twice, each time into a store of its own. The second time it is killed again
and again (SIGKILL to its process group), and begun anew by the same command. `resume.cost_share` is
what it took longer, per kill. `cache.verify_share` is the part of the first one's rounds in which
tasks hash files of the cache. About ten minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from components.runtime.receipts import read_receipt
from tests.benchmarks.campaigns import REPOSITORY, Finished, run_campaign
from tests.benchmarks.figures import record

COMMAND = "python -m tests.benchmarks.resume"
RECIPE = "recipes/demo.yaml"
ROUNDS = 4
NUM_KILLS = 4
STARTUP_SECONDS = 8.0
"""Of a run before its first new task: an earlier kill would cost nothing but itself."""
COST_BOUND, VERIFY_BOUND = 0.10, 0.03


def killed_after(folder: Path, seed: int, seconds: float) -> float:
    """Carry the demo on for so long, kill all its processes, and return the seconds it took."""
    command = [sys.executable, "pipeline.py", "run", RECIPE, "--rounds", str(ROUNDS)]
    command += ["--set", f"seed={seed}", "--store", f"file://{folder}/store"]
    begun = time.monotonic()
    # A group of its own: its tasks are in it, and nothing else.
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return time.monotonic() - begun


def with_kills(folder: Path, seed: int, whole_seconds: float) -> tuple[float, Finished]:
    """Return the seconds of a demo that is killed NUM_KILLS times, in all, and how it ended."""
    draw = random.Random(seed)
    seconds = 0.0
    # Between two kills there is time for more than one task, and all of them come before the end.
    shares = [draw.uniform(0.05, 0.9 / NUM_KILLS) for _ in range(NUM_KILLS)]
    for share in shares:
        seconds += killed_after(folder, seed, share * whole_seconds + STARTUP_SECONDS)
    finished = run_campaign(RECIPE, folder, [f"seed={seed}"], ROUNDS)
    return seconds + finished.seconds, finished


def verify_share(finished: Finished) -> float:
    """Return the share of the rounds' task seconds in which files of the cache were hashed."""
    tasks = [task.worked for task in finished.view.tasks if task.last.round >= 0]
    hashing = sum(task.costs.get("verify_seconds", 0.0) for task in tasks)
    return hashing / sum(task.seconds for task in tasks)


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    with tempfile.TemporaryDirectory(prefix="ratchet-resume-") as name:
        folder = Path(name)
        plain = run_campaign(RECIPE, folder / "plain", [f"seed={seed}"], ROUNDS)
        seconds, killed = with_kills(folder / "killed", seed, plain.seconds)
        for number in range(len(plain.state.history)):
            ours, theirs = (one.evaluation(number) for one in (killed, plain))
            assert ours.digest == theirs.digest, f"round {number} ended otherwise"
        assert read_receipt(killed.context, killed.view.state_ref)
        share = (seconds / plain.seconds - 1) / NUM_KILLS
        hashing = verify_share(plain)
    command = f"{COMMAND} --seed {seed}"
    unit = f"of {plain.seconds:.0f} s, per kill of {NUM_KILLS}"
    record("resume.cost_share", share, unit, f"≤ {COST_BOUND}", command, seed)
    unit = "of the rounds' task seconds"
    record("cache.verify_share", hashing, unit, f"≤ {VERIFY_BOUND}", command, seed)
    print(f"resume.cost_share = {share:.3f}, cache.verify_share = {hashing:.4f}")


if __name__ == "__main__":
    main()
