"""What is in a store after its writer, or its server, was killed at any time."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.errors import Transient
from components.storage.cache import Cache
from components.storage.s3 import S3Store
from components.storage.store import Store, open_store
from tests.conftest import BUCKET, S3Server
from tests.unit.stored import PART_BYTES, object_of, sha256
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


def spawn(
    program: str, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
    )


UPLOAD = """
import os, pathlib, sys
from components.storage.store import S3Store, open_store
uri, key, path = sys.argv[1:]
store = S3Store(uri, os.environ, part_bytes=5 << 20) if uri.startswith("s3:") else open_store(uri, {})
store.put_file(key, pathlib.Path(path), key.rpartition("/")[2])
"""


def test_a_process_killed_while_it_stores_a_file_leaves_no_half_object(
    file_store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(4 << 30)
    key, incoming = object_of(b"large"), tmp_path / "store" / ".incoming"
    writer = spawn(UPLOAD, file_store.root, key, str(path))

    def half_written() -> bool:
        return incoming.is_dir() and any(
            one.stat().st_size > 1 << 20 for one in incoming.iterdir()
        )

    wait_until(half_written, writer)
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    assert file_store.size(key) is None
    assert list(file_store.list("")) == []
    file_store.put_bytes(key, b"after")
    assert list(file_store.list("")) == [key]


def test_every_object_of_a_process_killed_at_any_time_is_whole(
    file_store: Store, tmp_path: Path
) -> None:
    program = """
import hashlib, itertools, os, pathlib, sys
from components.storage.store import open_store
store, path = open_store(sys.argv[1], {}), pathlib.Path(sys.argv[2])
for number in itertools.count():
    data = os.urandom(8) * 40_000
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    store.put_file(f"objects/{sha256[:2]}/{sha256}", path, sha256)
    store.put_bytes(f"steps/train/{sha256}.json", sha256.encode() * 1000, if_absent=True)
"""
    for number in range(4):
        before = len(list(file_store.list("")))
        writer = spawn(program, file_store.root, str(tmp_path / "payload"))

        def objects_appear(before: int = before) -> bool:
            return len(list(file_store.list(""))) > before + 6

        wait_until(objects_appear, writer)
        time.sleep(0.003 * number)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    for key in file_store.list("objects/"):
        assert sha256(file_store.get_bytes(key)) == key.rpartition("/")[2]
    for key in file_store.list("steps/"):
        digest = Path(key).stem
        assert file_store.get_bytes(key) == digest.encode() * 1000
        payload_size = file_store.size(f"objects/{digest[:2]}/{digest}")
        assert payload_size == 320_000, "a receipt is never there before its payload"


def test_a_process_killed_while_it_uploads_parts_leaves_no_object(
    s3_server: S3Server, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(200 << 20)
    nothing = hashlib.sha256()
    for _ in range(200):
        nothing.update(bytes(1 << 20))
    uri, key = s3_server.new_uri(), f"objects/00/{nothing.hexdigest()}"
    prefix, client = uri.removeprefix(f"s3://{BUCKET}/"), s3_server.client()
    writer = spawn(UPLOAD, uri, key, str(path), environment=s3_server.environment)

    def half_sent() -> bool:
        uploads = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())
        mine = [one["UploadId"] for one in uploads if one["Key"] == f"{prefix}/{key}"]
        return any(
            client.list_parts(Bucket=BUCKET, Key=f"{prefix}/{key}", UploadId=one).get(
                "Parts"
            )
            for one in mine
        )

    wait_until(half_sent, writer)
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    assert open_store(uri, s3_server.environment).size(key) is None


def test_what_a_killed_server_acknowledged_is_there_when_it_is_back(
    start_s3_server: Callable[[], S3Server], tmp_path: Path
) -> None:
    server = start_s3_server()
    store = S3Store(server.new_uri(), server.environment, part_bytes=PART_BYTES)
    payload = os.urandom(7 * 1024 * 1024)
    (tmp_path / "payload").write_bytes(payload)
    store.put_file(object_of(payload), tmp_path / "payload", sha256(payload))
    for number in range(50):
        assert store.put_bytes(
            f"steps/train/{number}.json", b"%d" % number, if_absent=True
        )
    server.stop(signal.SIGKILL)
    with pytest.raises(Transient, match=r"cannot be reached any more|broke off"):
        store.put_bytes("steps/train/late.json", b"{}")
    server.start()
    assert [store.get_bytes(f"steps/train/{number}.json") for number in range(50)] == [
        b"%d" % n for n in range(50)
    ]
    assert (
        Cache(tmp_path / "cache")
        .get(store, object_of(payload), sha256(payload), len(payload))
        .is_file()
    )
    assert not store.put_bytes("steps/train/7.json", b"other", if_absent=True)
    server.stop(signal.SIGKILL)
