"""Images of this project on the nodes of a test's cluster: `python -m tests.cluster.node_images`.

The program brings them there: that of steps, which `make images` builds, and one of the store, the
server of the tests on top of it, for clusters that cannot pull the one of the manifests.
CLUSTER_LOAD is the command that takes images of the Docker engine to the nodes (`kind load
docker-image`).
"""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import tarfile
from pathlib import Path

from tests.cluster.pods import images_of_nodes
from tests.cluster.server import Server
from tests.conftest import weed_binary

STEPS = "ratchet/cpu:dev"
STORE = "ratchet/tests-store:dev"
DOCKER = shlex.split(os.environ.get("DOCKER") or "docker")


def missing_images(server: Server) -> list[str]:
    """Return the images that no node has."""
    present = {name.removeprefix("docker.io/") for name in images_of_nodes(server)}
    return [name for name in (STEPS, STORE) if name not in present]


def store_context() -> bytes:
    """Return a build context of the store's image, as a tar archive."""
    recipe = f"FROM {STEPS}\nCOPY weed /usr/bin/weed\n".encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(recipe)
        tar.addfile(entry, io.BytesIO(recipe))
        tar.add(Path(weed_binary()).resolve(), "weed")
    return archive.getvalue()


def main() -> None:
    """Build the store's image, and bring both to the nodes."""
    load = shlex.split(os.environ.get("CLUSTER_LOAD", ""))
    if not load:
        raise SystemExit(
            "error: CLUSTER_LOAD names no command that takes images to the nodes "
            "(`kind load docker-image`)"
        )
    if not (os.environ.get("RATCHET_CLUSTER") or os.environ.get("CLUSTER")):
        raise SystemExit(
            "error: RATCHET_CLUSTER names no kubeconfig, and CLUSTER no program"
        )
    if not os.environ.get("RATCHET_CLUSTER"):
        # Its node has to be there to take them.
        subprocess.run([os.environ["CLUSTER"]], stdout=subprocess.DEVNULL, check=True)
    build = [*DOCKER, "build", "--quiet", f"--tag={STORE}", "-"]
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    subprocess.run(build, input=store_context(), env=environment, check=True)
    subprocess.run([*load, STEPS, STORE], check=True)


if __name__ == "__main__":
    main()
