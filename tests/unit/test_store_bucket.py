"""What only a bucket can do wrong: parts, checksums, credentials, addresses. The server is real."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from components.errors import Corrupt, UserError
from components.storage.s3 import S3Store
from components.storage.store import Store, open_store, probe
from tests.conftest import READER_KEY, READER_SECRET, S3Server, free_ports
from tests.unit.stored import KEY, PART_BYTES, object_of, sha256, written


def small_parts(server: S3Server) -> S3Store:
    return S3Store(server.new_uri(), server.environment, part_bytes=PART_BYTES)


def test_a_large_file_goes_and_comes_in_parts(
    s3_server: S3Server, tmp_path: Path
) -> None:
    store, data = small_parts(s3_server), os.urandom(12 * 1024 * 1024 + 7)
    store.put_file(object_of(data), written(tmp_path, data), sha256(data))
    store.get_file(object_of(data), tmp_path / "back")
    assert sha256((tmp_path / "back").read_bytes()) == sha256(data)
    bucket, _, prefix = store.root.removeprefix("s3://").partition("/")
    kept = s3_server.client().head_object(
        Bucket=bucket, Key=f"{prefix}/{object_of(data)}", ChecksumMode="ENABLED"
    )
    assert kept["ChecksumSHA256"].endswith("-3")


def test_a_large_file_that_is_not_its_digest_leaves_nothing(
    s3_server: S3Server, tmp_path: Path
) -> None:
    store, path = small_parts(s3_server), tmp_path / "large"
    path.write_bytes(b"x" * (6 * 1024 * 1024))
    with pytest.raises(Corrupt, match=str(path)):
        store.put_file(object_of(b"meant"), path, sha256(b"meant"))
    assert store.size(object_of(b"meant")) is None


def test_a_server_that_knows_no_checksums_can_be_told(
    s3_server: S3Server, tmp_path: Path
) -> None:
    switches = {
        "RATCHET_S3_REQUEST_CHECKSUM": "when_required",
        "RATCHET_S3_RESPONSE_CHECKSUM": "when_required",
    }
    store = S3Store(
        s3_server.new_uri(), s3_server.environment | switches, part_bytes=PART_BYTES
    )
    data = os.urandom(6 * 1024 * 1024)
    store.put_file(object_of(data), written(tmp_path, data), sha256(data))
    store.put_bytes(KEY, b"{}")
    assert sha256(store.get_bytes(object_of(data))) == sha256(data)
    bucket, _, prefix = store.root.removeprefix("s3://").partition("/")
    kept = s3_server.client().head_object(
        Bucket=bucket, Key=f"{prefix}/{KEY}", ChecksumMode="ENABLED"
    )
    assert not [name for name in kept if name.startswith("Checksum")]


def test_a_wrong_value_of_a_switch_is_named() -> None:
    with pytest.raises(
        UserError,
        match="RATCHET_S3_REQUEST_CHECKSUM=never: use when_supported or when_required",
    ):
        open_store("s3://bucket/a", {"RATCHET_S3_REQUEST_CHECKSUM": "never"})


def test_a_bucket_itself_can_be_a_store(s3_server: S3Server) -> None:
    s3_server.client().create_bucket(Bucket="whole-bucket")
    store = open_store("s3://whole-bucket", s3_server.environment)
    store.put_bytes(KEY, b"{}")
    assert list(store.list("")) == [KEY]
    assert (
        s3_server.client().get_object(Bucket="whole-bucket", Key=KEY)["Body"].read()
        == b"{}"
    )


def test_what_others_put_into_a_bucket_can_be_read_under_their_names(
    s3_server: S3Server, tmp_path: Path
) -> None:
    store = open_store(s3_server.new_uri(), s3_server.environment)
    bucket, _, prefix = store.root.removeprefix("s3://").partition("/")
    for name in ("Meine Modelle/größe (1).json", "marker/"):
        s3_server.client().put_object(
            Bucket=bucket,
            Key=f"{prefix}/{name}",
            Body=b"" if name.endswith("/") else b"{}",
        )
    assert list(store.list("")) == ["Meine Modelle/größe (1).json"]
    store.get_file("Meine Modelle/größe (1).json", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"{}"


def refusal(store: Store) -> str:
    """What a person reads who uses a store that does not work: the same for every first call."""
    with pytest.raises(UserError) as caught:
        probe(store)
    message = str(caught.value)
    assert "\n" not in message
    assert "secret-that-no-message-may-show" not in message
    return message


def test_wrong_credentials_are_named_without_the_secret(s3_server: S3Server) -> None:
    wrong = {"AWS_SECRET_ACCESS_KEY": "wrong-secret-that-no-message-may-show"}
    message = refusal(open_store(s3_server.new_uri(), s3_server.environment | wrong))
    assert "ratchet-tests" in message
    assert s3_server.endpoint in message
    assert "SignatureDoesNotMatch" in message
    assert "AWS_SECRET_ACCESS_KEY" in message
    unknown = {"AWS_ACCESS_KEY_ID": "nobody"}
    assert "InvalidAccessKeyId" in refusal(
        open_store(s3_server.new_uri(), s3_server.environment | unknown)
    )


def test_a_key_that_may_only_read_is_refused_by_the_probe(s3_server: S3Server) -> None:
    reader = {"AWS_ACCESS_KEY_ID": READER_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET}
    message = refusal(open_store(s3_server.new_uri(), s3_server.environment | reader))
    assert "AccessDenied" in message
    assert "may list, read and write" in message


def test_an_unknown_bucket_is_named_and_not_made(s3_server: S3Server) -> None:
    message = refusal(open_store("s3://no-such-bucket/prefix", s3_server.environment))
    assert "there is no bucket no-such-bucket" in message
    assert s3_server.endpoint in message
    assert "no-such-bucket" not in [
        bucket["Name"] for bucket in s3_server.client().list_buckets()["Buckets"]
    ]


def test_an_endpoint_where_nothing_listens_is_named() -> None:
    endpoint = (
        f"http://name:a-secret-that-no-message-may-show@127.0.0.1:{free_ports(1)[0]}"
    )
    given = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    message = refusal(open_store("s3://bucket/prefix", given))
    assert endpoint.rpartition("@")[2] in message
    assert "AWS_ENDPOINT_URL" in message


# It waits for six seconds, which are two tries of a first connection.
@pytest.mark.process
def test_an_endpoint_that_never_accepts_is_named() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        # One connection fills the queue of a listener that accepts none; the kernel ignores the
        # next ones.
        filling = [
            socket.create_connection(deaf.getsockname(), timeout=1) for _ in range(1)
        ]
        given = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        given["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        message = refusal(open_store("s3://bucket/prefix", given))
        assert "cannot be reached" in message
        for one in filling:
            one.close()


def test_a_malformed_endpoint_is_named() -> None:
    message = refusal(
        open_store("s3://bucket/prefix", {"AWS_ENDPOINT_URL_S3": "localhost:9000"})
    )
    assert "localhost:9000" in message


def test_half_a_pair_of_credentials_is_named(s3_server: S3Server) -> None:
    given = {"AWS_ENDPOINT_URL_S3": s3_server.endpoint, "AWS_ACCESS_KEY_ID": "only-one"}
    message = refusal(open_store(s3_server.new_uri(), given))
    assert "AWS_SECRET_ACCESS_KEY" in message


def test_no_credentials_at_all_is_named(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    message = refusal(
        open_store(s3_server.new_uri(), {"AWS_ENDPOINT_URL_S3": s3_server.endpoint})
    )
    assert "no complete S3 credentials" in message
    assert "AWS_ACCESS_KEY_ID" in message
