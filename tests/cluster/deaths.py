"""Ways in which a cluster ends a step, each as the cluster does it."""

from __future__ import annotations

from tests.cluster.steps import StepPods

STEP, SUPERVISOR = "components.runtime.quiet_module", "components.runtime.supervisor"
# `python3 -m MODULE …` of the container's processes; others have the module's name further behind.
_FIND = """
import os, signal, sys, time
from pathlib import Path
def find(module):
    for folder in Path("/proc").glob("[0-9]*"):
        try: words = (folder / "cmdline").read_text().split("\\0")
        except OSError: continue
        if words[1:3] == ["-m", module]: return int(folder.name)
    raise SystemExit(f"no process of {module}")
"""
_SIGNAL = _FIND + "os.kill(find(sys.argv[1]), int(sys.argv[2]))\n"
# The kernel ends the process with the highest score, of which size is a part: many small processes
# eat, so that the step has it.
_EAT_MEMORY = (
    _FIND
    + """
victim = Path(f"/proc/{find(sys.argv[1])}")
(victim / "oom_score_adj").write_text("1000")
eaters = []
def is_alive():
    try: return ") Z " not in (victim / "stat").read_text()
    except OSError: return False
while is_alive():
    eater = os.fork()
    if not eater:
        eaten = b"x" * (24 << 20)
        signal.pause()
    eaters.append(eater)
    time.sleep(0.1)
for eater in eaters: os.kill(eater, signal.SIGKILL)
"""
)
_FILL_SCRATCH = """
import sys
with open("/tmp/too-much", "wb") as file:
    for _ in range(int(sys.argv[1])): file.write(b"x" * (1 << 20))
"""
_PYTHON = ("/opt/venv/bin/python", "-I", "-c")


def kill(pods: StepPods, name: str) -> None:
    """Kill the step below its supervisor."""
    pods.execute(name, *_PYTHON, _SIGNAL, STEP, "9")


def kill_supervisor(pods: StepPods, name: str) -> None:
    """Kill the supervisor, which ends the container, and the killer with it."""
    pods.execute(name, *_PYTHON, _SIGNAL, SUPERVISOR, "9", check=False)


def use_up_memory(pods: StepPods, name: str) -> None:
    """Take memory in the container until the kernel ends the step."""
    # Where the kernel ends all processes of a container, this one is among them.
    pods.execute(name, *_PYTHON, _EAT_MEMORY, STEP, check=False)


def delete(pods: StepPods, name: str) -> None:
    """Delete the pod."""
    pods.delete(name)


def drain(pods: StepPods, name: str) -> None:
    """Evict the pod, as one who empties a node does."""
    pods.evict(name)


def fill_scratch(pods: StepPods, name: str, mebibytes: int) -> None:
    """Write more than the scratch space may hold; kubelet evicts the pod within two minutes."""
    pods.execute(name, *_PYTHON, _FILL_SCRATCH, str(mebibytes))
