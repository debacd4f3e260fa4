"""What stores do when disks and networks fail: cut off, garbled, full, refused."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.errors import Corrupt, Missing, Transient, UserError
from components.storage.cache import Cache
from components.storage.s3 import S3Store
from components.storage.store import Store, open_store, probe
from tests.conftest import BUCKET, S3Server
from tests.doubles.network import Proxy, RudeServer
from tests.unit.stored import KEY, PART_BYTES, object_of, sha256


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[Proxy]:
    found = Proxy(s3_server.endpoint)
    yield found
    found.close()


@pytest.fixture
def rude() -> Iterator[RudeServer]:
    server = RudeServer()
    yield server
    server.close()


def behind(proxy: Proxy, server: S3Server) -> S3Store:
    """A store whose every byte passes the proxy, already in use."""
    environment = server.environment | {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
    store = S3Store(server.new_uri(), environment, part_bytes=PART_BYTES)
    store.size(KEY)
    return store


def once(
    meddle: Callable[[bytes], bytes | None], when: Callable[[bytes], bool]
) -> Callable[[bytes], bytes | None]:
    """Meddle with the first bytes that `when` recognises, and with no others."""
    seen: list[bool] = []

    def first_only(data: bytes) -> bytes | None:
        if seen or not when(data):
            return data
        seen.append(True)
        return meddle(data)

    return first_only


# Bytes that change.


def test_a_truncated_object_is_named(store: Store, tmp_path: Path) -> None:
    store.put_bytes(object_of(b"weights"), b"wei")
    with pytest.raises(Corrupt, match="3 bytes instead of 7") as caught:
        Cache(tmp_path / "cache").get(
            store, object_of(b"weights"), sha256(b"weights"), 7
        )
    assert f"{store.root}/{object_of(b'weights')}" in str(caught.value)


def test_a_garbled_object_is_named_with_both_digests(
    store: Store, tmp_path: Path
) -> None:
    store.put_bytes(object_of(b"weights"), b"wEights")
    with pytest.raises(
        Corrupt, match=f"{sha256(b'wEights')} instead of {sha256(b'weights')}"
    ) as caught:
        Cache(tmp_path / "cache").get(
            store, object_of(b"weights"), sha256(b"weights"), 7
        )
    assert f"{store.root}/{object_of(b'weights')}" in str(caught.value)


def test_a_byte_flipped_in_the_folder_of_a_store_is_found(
    file_store: Store, tmp_path: Path
) -> None:
    (tmp_path / "payload").write_bytes(b"w" * 100_000)
    key = object_of(b"w" * 100_000)
    file_store.put_file(key, tmp_path / "payload", sha256(b"w" * 100_000))
    place = tmp_path / "store" / key
    place.chmod(0o644)
    with place.open("r+b") as file:
        file.seek(50_000)
        file.write(b"W")
    with pytest.raises(Corrupt, match=key):
        Cache(tmp_path / "cache").get(file_store, key, sha256(b"w" * 100_000), 100_000)


def test_bytes_that_change_on_the_way_up_are_refused_by_the_server(
    s3_server: S3Server, proxy: Proxy, tmp_path: Path
) -> None:
    store = behind(proxy, s3_server)
    proxy.upwards = lambda data: data.replace(b"the true bytes", b"the true bites")
    with pytest.raises(Transient, match="got other bytes than were sent"):
        store.put_bytes(KEY, b"the true bytes")
    (tmp_path / "payload").write_bytes(b"the true bytes")
    with pytest.raises(Transient, match="got other bytes than were sent"):
        store.put_file(
            object_of(b"the true bytes"),
            tmp_path / "payload",
            sha256(b"the true bytes"),
        )
    large = b"x" * (6 << 20) + b"the true bytes"
    (tmp_path / "large").write_bytes(large)
    with pytest.raises(Transient, match="got other bytes than were sent"):
        store.put_file(object_of(large), tmp_path / "large", sha256(large))
    assert list(open_store(store.root, s3_server.environment).list("")) == []
    prefix = store.root.removeprefix(f"s3://{BUCKET}/")
    uploads = (
        s3_server.client()
        .list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
        .get("Uploads", [])
    )
    assert uploads == [], "the upload was aborted"


def test_bytes_that_change_on_the_way_down_are_noticed(
    s3_server: S3Server, proxy: Proxy
) -> None:
    store = behind(proxy, s3_server)
    store.put_bytes(KEY, b"the true bytes")
    proxy.downwards = lambda data: data.replace(b"the true bytes", b"the true bites")
    with pytest.raises(Corrupt, match=f"{store.root}/{KEY}"):
        store.get_bytes(KEY)


# Connections that break.


def test_a_download_that_breaks_off_once_goes_on(
    s3_server: S3Server, proxy: Proxy, tmp_path: Path
) -> None:
    store, data = behind(proxy, s3_server), os.urandom(12 << 20)
    (tmp_path / "payload").write_bytes(data)
    store.put_file(object_of(data), tmp_path / "payload", sha256(data))
    proxy.downwards = once(
        lambda data: None, when=lambda data: not data.startswith(b"HTTP/")
    )
    store.get_file(object_of(data), tmp_path / "back")
    assert sha256((tmp_path / "back").read_bytes()) == sha256(data)


def test_a_download_that_always_breaks_off_is_transient_and_leaves_no_file(
    s3_server: S3Server, proxy: Proxy, tmp_path: Path
) -> None:
    store, data = behind(proxy, s3_server), os.urandom(1 << 20)
    (tmp_path / "payload").write_bytes(data)
    store.put_file(object_of(data), tmp_path / "payload", sha256(data))
    proxy.downwards = lambda data: (
        data if len(data) < 4096 and data.startswith(b"HTTP/") else None
    )
    with pytest.raises(Transient, match=object_of(data)):
        store.get_file(object_of(data), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_write_once_whose_answer_is_lost_does_not_hide_the_bytes(
    s3_server: S3Server, proxy: Proxy
) -> None:
    store = behind(proxy, s3_server)
    state = {"sent": False, "lost": False}

    def upwards(data: bytes) -> bytes:
        state["sent"] = state["sent"] or data.startswith(b"PUT")
        return data

    def downwards(data: bytes) -> bytes | None:
        if state["sent"] and not state["lost"] and b" 200 " in data[:20]:
            state["lost"] = True
            return None
        return data

    proxy.upwards, proxy.downwards = upwards, downwards
    store.put_bytes(KEY, b"mine", if_absent=True)
    assert state["lost"]
    assert store.get_bytes(KEY) == b"mine"


def test_an_upload_in_parts_whose_last_answer_is_lost_is_done(
    s3_server: S3Server, proxy: Proxy, tmp_path: Path
) -> None:
    store, data = behind(proxy, s3_server), os.urandom(6 << 20)
    (tmp_path / "payload").write_bytes(data)
    state = {"completing": False, "lost": False}

    def upwards(data: bytes) -> bytes:
        state["completing"] = state["completing"] or b"CompleteMultipartUpload" in data
        return data

    def downwards(data: bytes) -> bytes | None:
        if state["completing"] and not state["lost"]:
            state["lost"] = True
            return None
        return data

    proxy.upwards, proxy.downwards = upwards, downwards
    store.put_file(object_of(data), tmp_path / "payload", sha256(data))
    assert state["lost"]
    assert store.size(object_of(data)) == len(data)


# Servers of poor manners.


def test_a_server_without_conditional_writes_is_refused_by_the_probe(
    rude: RudeServer,
) -> None:
    with pytest.raises(UserError, match="lets a second writer overwrite") as caught:
        probe(open_store("s3://bucket/a", rude.environment))
    assert "\n" not in str(caught.value)


def test_a_server_without_conditional_writes_still_keeps_what_was_first(
    rude: RudeServer,
) -> None:
    store = open_store("s3://bucket/a", rude.environment)
    assert store.put_bytes(KEY, b"first", if_absent=True)
    assert not store.put_bytes(KEY, b"second", if_absent=True)
    assert store.get_bytes(KEY) == b"first"


def test_a_server_that_says_conflict_is_asked_again(rude: RudeServer) -> None:
    store = open_store("s3://bucket/a", rude.environment)
    rude.failures = [(409, "ConditionalRequestConflict")] * 2
    assert store.put_bytes(KEY, b"first", if_absent=True)
    rude.failures = [(409, "ConditionalRequestConflict")] * 9
    with pytest.raises(Transient, match="several writers at once"):
        store.put_bytes("steps/train/other.json", b"first", if_absent=True)


def test_a_new_object_is_looked_for_once_and_a_missing_one_twice(
    rude: RudeServer, tmp_path: Path
) -> None:
    store = open_store("s3://bucket/a", rude.environment)
    (tmp_path / "payload").write_bytes(b"payload")

    def asked(work: Callable[[], object]) -> list[str]:
        rude.asked.clear()
        work()
        return rude.asked

    def put_file() -> None:
        store.put_file(object_of(b"payload"), tmp_path / "payload", sha256(b"payload"))

    assert asked(lambda: store.size(KEY)) == [
        "GET",
        "HEAD",
        "HEAD",
    ]  # the first looks the bucket up
    assert asked(lambda: store.version(KEY)) == ["HEAD", "HEAD"]
    assert asked(put_file) == ["HEAD", "PUT"]
    assert asked(put_file) == ["HEAD"]
    assert asked(lambda: store.put_bytes(KEY, b"{}", if_absent=True)) == [
        "HEAD",
        "PUT",
        "GET",
    ]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((503, "SlowDown"), Transient, "SlowDown"),
        ((500, "InternalError"), Transient, "InternalError"),
        ((429, "TooManyRequests"), Transient, "TooManyRequests"),
        ((403, "RequestTimeTooSkewed"), UserError, "clock"),
        ((403, "AccessDenied"), UserError, "AWS_ACCESS_KEY_ID"),
        ((400, "ExpiredToken"), UserError, "ExpiredToken"),
        ((400, "AuthorizationHeaderMalformed"), UserError, "AWS_REGION"),
        ((501, "NotImplemented"), UserError, "conditional writes"),
        ((507, "XMinioStorageFull"), UserError, "full"),
        ((400, "EntityTooLarge"), UserError, "EntityTooLarge"),
    ],
)
def test_what_a_server_says_becomes_one_line_of_the_right_kind(
    rude: RudeServer, answer: tuple[int, str], kind: type[Exception], words: str
) -> None:
    rude.down = answer
    with pytest.raises(kind, match=words) as caught:
        open_store("s3://bucket/a", rude.environment).put_bytes(KEY, b"{}")
    assert "\n" not in str(caught.value)
    assert "s3://bucket/a" in str(caught.value)
    assert rude.environment["AWS_ENDPOINT_URL_S3"] in str(caught.value)


# Folders that cannot be used. Tests may run as root, whom permissions do not stop.


@pytest.mark.parametrize("place", ["/proc/ratchet-store", "regular-file/store"])
def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "regular-file").write_text("")
    folder = tmp_path / place
    store = open_store(f"file://{folder}", {})
    for attempt in (
        lambda: probe(store),
        lambda: store.put_bytes(KEY, b"{}", if_absent=True),
    ):
        with pytest.raises(
            UserError, match="use one folder that this user may write"
        ) as caught:
            attempt()
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert store.size(KEY) is None
    with pytest.raises(Missing):
        store.get_bytes(KEY)
    assert list(store.list("")) == []


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """The kernel refuses to let a file grow beyond 1 MiB, as a full disk or quota would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_an_object_is_said_with_numbers_and_leaves_nothing(
    file_store: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = b"w" * 3_000_000
    (tmp_path / "payload").write_bytes(data)
    request.getfixturevalue("small_files_only")
    with pytest.raises(
        UserError, match=r"no room for 3,000,000 bytes .* bytes free"
    ) as caught:
        file_store.put_file(object_of(data), tmp_path / "payload", sha256(data))
    assert str(tmp_path / "store") in str(caught.value)
    assert [one for one in (tmp_path / "store").rglob("*") if one.is_file()] == []


def test_no_room_in_the_cache_is_said_with_numbers_and_leaves_nothing(
    store: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = b"w" * 3_000_000
    (tmp_path / "payload").write_bytes(data)
    store.put_file(object_of(data), tmp_path / "payload", sha256(data))
    request.getfixturevalue("small_files_only")
    with pytest.raises(
        UserError, match=r"no room for 3,000,000 bytes .* bytes free"
    ) as caught:
        Cache(tmp_path / "cache").get(store, object_of(data), sha256(data), len(data))
    assert str(tmp_path / "cache") in str(caught.value)
    assert [one for one in (tmp_path / "cache").rglob("*") if one.is_file()] == []
