"""What Kubeflow Pipelines adds to a run: `python -m tests.benchmarks.kubeflow --endpoint URL --store
s3://…`. A quarter of an hour; `--workflow NAME` reads one that has ended.

The recipe demo is submitted with one shard, as docs/cluster.md does. A round's overhead is the time
from the end of the step `decide` before it to the end of its own, without the time in which the
containers of its steps ran: drivers, init containers, and what the controllers wait. Argo's pause
between two looks at a run (DEFAULT_REQUEUE_TIME of its controller) decides most of it: as installed
it gives one figure, set to something else another.

Needs KUBECONFIG, and rights to read Workflows and pods of the namespace.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean

from tests.benchmarks.figures import record
from tests.cluster.server import Server
from tests.manifests.rendering import Json

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python -m tests.benchmarks.kubeflow"
FIGURE = "cluster.overhead_per_round_seconds"
SHORT_PAUSE_FIGURE = "cluster.overhead_with_short_pause_seconds"
AS_INSTALLED = "10s"
_NODE_NAME = "workflows.argoproj.io/node-name"
_ROUND = re.compile(r"\.(?P<step>[a-z]+)-r(?P<round>\d+)\(0\)\.executor")


@dataclass(frozen=True)
class StepPod:
    """The container of a step that has ended."""

    step: str
    round: int
    began: float
    """Seconds since the epoch, as all times here."""
    ended: float


def step_pods(pods: Sequence[Json]) -> list[StepPod]:
    """Return the steps of rounds among a run's pods; those of drivers and of `prepare` are none."""
    found = []
    for pod in pods:
        node = pod["metadata"].get("annotations", {}).get(_NODE_NAME, "")
        place = _ROUND.search(node)
        containers = pod["status"].get("containerStatuses", [])
        ends = [
            container["state"].get("terminated")
            for container in containers
            if container["name"] == "main"
        ]
        if place and ends and ends[0]:
            began, ended = (
                _seconds(ends[0][key]) for key in ("startedAt", "finishedAt")
            )
            found.append(StepPod(place["step"], int(place["round"]), began, ended))
    return found


def overheads(steps: Sequence[StepPod]) -> list[float]:
    """Return the seconds of each round after round 0 in which no container of its steps ran."""
    decided = sorted((pod.round, pod.ended) for pod in steps if pod.step == "decide")
    seconds = []
    for (_, before), (number, ended) in itertools.pairwise(decided):
        # Shards are samples of one step, side by side.
        spans = sorted((pod.began, pod.ended) for pod in steps if pod.round == number)
        seconds.append(ended - before - _covered(spans))
    return seconds


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of spans, which are in order."""
    total, reached = 0.0, float("-inf")
    for begin, end in spans:
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def submitted(options: argparse.Namespace) -> str:
    """Carry out the demo, and return the id of its run. Raises SystemExit if it did not succeed."""
    command = [sys.executable, "pipeline.py", "submit", "recipes/demo.yaml", "--wait"]
    command += ["--store", options.store, "--endpoint", options.endpoint, "--json"]
    command += ["--profile", options.profile, "--set", "generate.shards=1"]
    if options.namespace != "kubeflow":
        command += ["--namespace", options.namespace]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        raise SystemExit(f"error: submit ended with status {run.returncode}")
    return str(json.loads(run.stdout)["run_id"])


def read(server: Server, path: str, **selector: str) -> Json:
    """Return a document of the API server. Raises SystemExit with its words if it refuses."""
    labels = ",".join(f"{key}={value}" for key, value in selector.items())
    answer = server.request("GET", f"{path}?labelSelector={labels}")
    if answer.status >= 400:
        raise SystemExit(f"error: {path}: {answer.message}")
    return answer.document


def requeue_time(server: Server) -> str:
    """Return how long Argo's controller lets a Workflow wait between two looks at it."""
    path = "/apis/apps/v1/namespaces/kubeflow/deployments/workflow-controller"
    (container,) = read(server, path)["spec"]["template"]["spec"]["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    return str(variables.get("DEFAULT_REQUEUE_TIME", AS_INSTALLED))


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="http://127.0.0.1:8080")
    parser.add_argument("--store", default="s3://ratchet/benchmark")
    parser.add_argument("--namespace", default="kubeflow")
    parser.add_argument("--profile", default="small")
    parser.add_argument("--workflow", help="of a run that has ended: nothing is begun")
    parser.add_argument("--seed", type=int, default=0, help="of the recipe, as it is")
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    options = parser.parse_args()
    server = Server(Path(os.environ["KUBECONFIG"]))
    workflows = f"/apis/argoproj.io/v1alpha1/namespaces/{options.namespace}/workflows"
    name = options.workflow
    if name is None:
        found = read(server, workflows, **{"pipeline/runid": submitted(options)})
        name = found["items"][0]["metadata"]["name"]
    pods = read(
        server,
        f"/api/v1/namespaces/{options.namespace}/pods",
        **{"workflows.argoproj.io/workflow": name},
    )["items"]
    steps = step_pods(pods)
    seconds = overheads(steps)
    rounds = ", ".join(f"{one:.0f}" for one in seconds)
    work = sum(pod.ended - pod.began for pod in steps)
    pause = requeue_time(server)
    note = (
        f"of {len(seconds)} rounds: {rounds} s; {len(pods)} pods, {work:.0f} s in steps of rounds;"
        f" Argo's DEFAULT_REQUEUE_TIME is {pause}"
    )
    mean = fmean(seconds)
    figure = FIGURE if pause == AS_INSTALLED else SHORT_PAUSE_FIGURE
    print(f"{figure} = {mean:.0f} s (bound ≤ 60) {note}")
    if not options.dry:
        record(figure, mean, "s", "≤ 60", COMMAND, options.seed, note)


if __name__ == "__main__":
    main()
