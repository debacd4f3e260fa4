"""Steps on a real node that a cluster ends, early and late: each is tried again and goes on.

What dies inside its container is tried again there, by the supervisor of the compiled pipeline. A
pod that is lost as a whole is begun again from outside, which is Argo's part (a deleted pod) or
that of `submit --wait` (the others); here the test does it, once.

The nodes need the images of `node_images`: `make cluster-node` brings them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from components.cli.package.package_file import Package
from components.cli.package.profiles import load_profile
from components.contracts.recipe_file import load_recipe
from tests.cluster import deaths
from tests.cluster.node_images import STEPS, STORE, missing_images
from tests.cluster.server import Server
from tests.cluster.steps import Input, StepPods, step_container
from tests.manifests.rendering import ROOT, Json, composed
from tests.pipeline.compiling import compile_aside

# Kubelet looks at volumes once a minute, and a supervisor's first pause is 10 s.
pytestmark = pytest.mark.timeout(1800)
NAMESPACE = "ratchet-deaths"
SCRATCH_MEBIBYTES = 64
PROFILE = f"""
default:
  {{cpu: 20m, memory: 512Mi, scratch: {SCRATCH_MEBIBYTES}Mi, shared_memory: 64Mi, hours: 1}}
"""
LAST = 20
MOMENTS = {"early": 0, "late": 12}
"""Numbers that are saved when the step dies."""
LEAST_CASES = 12
SIDE_BY_SIDE = 6
"""Cases at a time: on two cores the starts of more pods wait for each other."""


@dataclass(frozen=True)
class Death:
    """A way to end a step."""

    cause: Callable[[StepPods, str], None]
    loses_pod: bool
    """The container ends too, so the pod has to be begun again."""


DEATHS = {
    "killed": Death(deaths.kill, loses_pod=False),
    "out-of-memory": Death(deaths.use_up_memory, loses_pod=False),
    "supervisor-killed": Death(deaths.kill_supervisor, loses_pod=True),
    "deleted": Death(deaths.delete, loses_pod=True),
    "drained": Death(deaths.drain, loses_pod=True),
    "evicted": Death(
        partial(deaths.fill_scratch, mebibytes=2 * SCRATCH_MEBIBYTES), loses_pod=True
    ),
}
# Reads what a test wants to know of stores: their receipts and attempts.
_READ_STORES = """
import json, os, sys, time
from components.errors import Transient
from components.runtime.attempts import Attempt
from components.storage.store import open_store
for name in sys.argv[2:]:
    store = open_store(f"s3://ratchet/{sys.argv[1]}/{name}", os.environ)
    while True:
        try: step_keys = list(store.list("steps/"))
        except Transient:
            # The policies of a pod are programmed after it has started.
            time.sleep(1)
            continue
        break
    receipts = [store.get_bytes(key).decode() for key in step_keys]
    attempts = [Attempt.from_bytes(store.get_bytes(key)) for key in store.list("attempts/")]
    errors = [attempt.error for attempt in sorted(attempts, key=lambda one: one.order)]
    print(json.dumps({"name": name, "receipts": receipts, "errors": errors}))
"""


class Steps:
    """Steps of the compiled pipeline in pods, each with a store of its own."""

    def __init__(self, pods: StepPods, package: Package) -> None:
        self.pods = pods
        self._package = package
        # A volume may hold what an earlier session stored.
        self._folder = uuid.uuid4().hex

    def container(self, store: str, wait_at: int) -> tuple[Json, list[Json]]:
        """Return the container of a step whose first try waits at a number."""
        numbers = json.dumps({"last": LAST, "wait_at": wait_at})
        parameters = {"state": f"s3://ratchet/{self._folder}/{store}"}
        step_input = Input(parameters, "mix", numbers, output="candidate")
        source = Path(__file__).with_name("counting.py").read_text(encoding="utf-8")
        container, volumes = step_container(
            self._package, "exec-train-r0", step_input, source
        )
        container["image"] = STEPS
        return container, volumes

    def start(self, pod: str, store: str, wait_at: int) -> None:
        """Start the pod of a step."""
        self.pods.start(pod, *self.container(store, wait_at))

    def ended_well(self, pod: str, words: str) -> None:
        """Wait for the end of a pod, which has to be a good one, with some words in its log."""
        status, log = self.pods.ended(pod)
        assert status == 0, f"{pod}: {log}"
        assert words in log, f"{pod} did not say '{words}': {log}"

    def read_stores(self, *stores: str) -> dict[str, Json]:
        """Return store → its receipts and the errors of its attempts."""
        container, volumes = self.container("reader", 0)
        container["args"] = [
            "/opt/venv/bin/python",
            "-c",
            _READ_STORES,
            self._folder,
            *stores,
        ]
        self.pods.start("reader", container, volumes)
        status, log = self.pods.ended("reader")
        assert status == 0, log
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        return {str(line["name"]): line for line in lines}


@pytest.fixture(scope="module")
def steps(
    node: Server,
    new_namespace: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Steps]:
    """A namespace of the manifests with a store of the manifests in it."""
    if missing := missing_images(node):
        pytest.skip(
            f"the node has no image {', '.join(missing)}: `make cluster-node` brings it"
        )
    new_namespace(NAMESPACE)
    image = f"- {{op: replace, path: /spec/template/spec/containers/0/image, value: {STORE}}}"
    request = "/spec/template/spec/containers/0/resources/requests"
    less = f"- {{op: replace, path: {request}, value: {{cpu: 20m, memory: 256Mi}}}}"
    objects = composed(
        "object-store",
        namespace=NAMESPACE,
        patches=(("StatefulSet/ratchet-store", f"{image}\n{less}"),),
    )
    credentials = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "ratchet-store-credentials", "namespace": NAMESPACE},
        "stringData": {
            "AWS_ACCESS_KEY_ID": "ratchet",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
        },
    }
    served = [one for one in objects if node.serves(one)]
    first = [one for one in served if one["kind"] == "Namespace"]
    node.apply_all([*first, credentials, *(one for one in served if one not in first)])
    rollout = ("rollout", "status", "statefulset/ratchet-store", "--timeout=110s")
    node.kubectl("-n", NAMESPACE, *rollout)
    profile = tmp_path_factory.mktemp("profile") / "deaths.yaml"
    profile.write_text(PROFILE)
    recipe = load_recipe(ROOT / "recipes" / "demo.yaml")
    loaded = load_profile(str(profile), ROOT / "tests" / "pipeline" / "images.toml")
    yield Steps(StepPods(node, NAMESPACE), compile_aside(recipe, 1, loaded).package)
    node.kubectl("delete", "namespace", NAMESPACE)
    release_volumes(node)


def release_volumes(server: Server) -> None:
    """Let volumes that are kept after their claim be claimed again."""
    volumes = server.request("GET", "/api/v1/persistentvolumes").document["items"]
    for volume in volumes:
        claim = volume["spec"].get("claimRef") or {}
        if (
            claim.get("namespace") == NAMESPACE
            and volume["status"]["phase"] == "Released"
        ):
            path = f"/api/v1/persistentvolumes/{volume['metadata']['name']}"
            content = "application/merge-patch+json"
            server.request("PATCH", path, {"spec": {"claimRef": None}}, content=content)


def survive(steps: Steps, name: str, death: Death, moment: int) -> None:
    """Let a step die in one way; it has to be done in the end, and no work of it twice."""
    steps.start(name, name, moment)
    steps.pods.wait_for_words(name, f"waiting at {moment}")
    death.cause(steps.pods, name)
    if death.loses_pod:
        steps.pods.wait_until_lost(name)
        begins_again = True
    else:
        # Linux with cgroup v2 may end all processes of a container that is out of memory.
        begins_again = steps.pods.ended_out_of_memory(name)
    last_pod = f"{name}-again" if begins_again else name
    if begins_again:
        steps.start(last_pod, name, moment)
    steps.ended_well(last_pod, f"going on from {moment}")


def test_a_step_that_a_cluster_ends_is_done_in_the_end(
    steps: Steps, record_property: Callable[[str, object], None]
) -> None:
    cases = {
        f"{death}-{moment}": (DEATHS[death], MOMENTS[moment])
        for death in DEATHS
        for moment in MOMENTS
    }
    assert len(cases) >= LEAST_CASES
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        futures = {
            name: threads.submit(survive, steps, name, *case)
            for name, case in cases.items()
        }
    failures = {
        name: str(error) for name, run in futures.items() if (error := run.exception())
    }
    assert failures == {}
    told = steps.read_stores(*cases)
    # Whatever ended the first try, the receipt is the same.
    assert len({tuple(one["receipts"]) for one in told.values()}) == 1
    assert {name for name, one in told.items() if len(one["receipts"]) != 1} == set()
    # The policies of a pod are programmed after it has started: a try that does not reach the store
    # in its first moment did no work, and the supervisor's next one does it.
    errors = {
        name: [said for said in one["errors"] if "cannot be reached" not in said]
        for name, one in told.items()
    }
    assert {name: said for name, said in errors.items() if len(said) != 2} == {}
    for name in ("deleted-late", "drained-late"):
        assert f"stopped by SIGTERM at {MOMENTS['late']}" in errors[name]
    record_property("retries_survived", len(cases))


def test_a_store_that_is_away_costs_a_step_time_alone(
    steps: Steps, record_property: Callable[[str, object], None]
) -> None:
    """One step is in the middle of its work, another makes its first contact."""
    never = -1
    steps.start("away-late", "away-late", MOMENTS["late"])
    steps.pods.wait_for_words("away-late", f"waiting at {MOMENTS['late']}")
    steps.pods.scale_store(0)
    steps.start("away-early", "away-early", never)
    for name in ("away-late", "away-early"):
        steps.pods.wait_for_words(name, "supervisor: try 1 ended with status 75")
    steps.pods.scale_store(1)
    steps.ended_well("away-late", f"going on from {MOMENTS['late']}")
    steps.ended_well("away-early", "going on from 0")
    record_property("retries_survived", 2)
