"""The cache: nothing gets a name in it that was not verified, and processes may share it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.errors import Corrupt, Missing, UserError
from components.storage.cache import Cache, link_or_copy
from components.storage.keys import object_key
from components.storage.store import Store

DATA = b"weights" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()
KEY = object_key(DIGEST)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache" / "objects")


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "payload"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A folder that hard links from the test's own do not reach."""
    # `make quick` has its folders in memory, `make test` on the disk.
    roots = (Path("/dev/shm"), Path(tempfile.gettempdir()))
    root = next(one for one in roots if one.stat().st_dev != tmp_path.stat().st_dev)
    folder = Path(tempfile.mkdtemp(dir=root))
    yield folder
    shutil.rmtree(folder)


def files_in(cache: Cache) -> list[Path]:
    return [path for path in cache.folder.rglob("*") if path.is_file()]


def test_an_object_is_fetched_verified_and_read_only(
    store: Store, cache: Cache, payload: Path
) -> None:
    store.put_file(KEY, payload, DIGEST)
    place = cache.get(store, KEY, DIGEST, len(DATA))
    assert place.read_bytes() == DATA
    assert place.name == DIGEST
    assert place.stat().st_mode & 0o777 == 0o444
    assert files_in(cache) == [place]


def test_a_cached_object_is_not_fetched_again(
    file_store: Store, cache: Cache, payload: Path, tmp_path: Path
) -> None:
    file_store.put_file(KEY, payload, DIGEST)
    first = cache.get(file_store, KEY, DIGEST, len(DATA))
    shutil.rmtree(tmp_path / "store")
    assert cache.get(file_store, KEY, DIGEST, len(DATA)) == first


def test_a_cached_file_that_was_cut_off_is_fetched_again(
    file_store: Store, cache: Cache, payload: Path
) -> None:
    file_store.put_file(KEY, payload, DIGEST)
    place = cache.get(file_store, KEY, DIGEST, len(DATA))
    place.chmod(0o644)
    place.write_bytes(DATA[:100])
    assert cache.get(file_store, KEY, DIGEST, len(DATA)).read_bytes() == DATA
    assert files_in(cache) == [place]


def edit(path: Path, text: bytes) -> None:
    """Change the first bytes of a file in place, as a person or another program would."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(text)


@pytest.mark.parametrize("keeps_its_time", [False, True])
def test_a_file_edited_since_the_last_process_is_fetched_again(
    file_store: Store,
    cache: Cache,
    payload: Path,
    keeps_its_time: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file_store.put_file(KEY, payload, DIGEST)
    place = cache.get(file_store, KEY, DIGEST, len(DATA))
    status = place.stat()
    edit(place, b"WEIGHTS")
    if keeps_its_time:
        os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    of_another_process = Cache(cache.folder)
    assert (
        of_another_process.get(file_store, KEY, DIGEST, len(DATA)).read_bytes() == DATA
    )
    assert f"{place} was changed" in capsys.readouterr().err


def test_a_file_edited_after_its_first_use_is_fetched_again(
    file_store: Store, cache: Cache, payload: Path
) -> None:
    file_store.put_file(KEY, payload, DIGEST)
    place = cache.get(file_store, KEY, DIGEST, len(DATA))
    os.utime(place, ns=(0, 0))
    assert cache.get(file_store, KEY, DIGEST, len(DATA)).read_bytes() == DATA
    edit(place, b"WEIGHTS")
    assert cache.get(file_store, KEY, DIGEST, len(DATA)).read_bytes() == DATA


def test_an_edited_file_is_no_file_to_adopt(
    file_store: Store, cache: Cache, payload: Path, tmp_path: Path
) -> None:
    cache.adopt(payload)
    file_store.put_file(KEY, payload, DIGEST)
    edit(cache.get(file_store, KEY, DIGEST, len(DATA)), b"WEIGHTS")
    again = tmp_path / "again"
    again.write_bytes(DATA)
    of_another_process = Cache(cache.folder)
    of_another_process.adopt(again)
    shutil.rmtree(tmp_path / "store")
    assert (
        of_another_process.get(file_store, KEY, DIGEST, len(DATA)).read_bytes() == DATA
    )


def test_bytes_of_another_digest_are_refused_and_not_kept(
    store: Store, cache: Cache
) -> None:
    garbled = DATA[:-1] + b"S"
    store.put_bytes(KEY, garbled)
    with pytest.raises(Corrupt) as caught:
        cache.get(store, KEY, DIGEST, len(DATA))
    for word in (f"{store.root}/{KEY}", DIGEST, hashlib.sha256(garbled).hexdigest()):
        assert word in str(caught.value)
    assert files_in(cache) == []


def test_an_object_of_another_size_is_refused_and_not_kept(
    store: Store, cache: Cache
) -> None:
    store.put_bytes(KEY, DATA[:100])
    with pytest.raises(Corrupt, match="100 bytes instead of 7,000"):
        cache.get(store, KEY, DIGEST, len(DATA))
    assert files_in(cache) == []


def test_a_missing_object_is_named(store: Store, cache: Cache) -> None:
    with pytest.raises(Missing, match=f"{store.root}/{KEY}"):
        cache.get(store, KEY, DIGEST, len(DATA))
    assert files_in(cache) == []


def test_an_empty_object_is_cached_too(store: Store, cache: Cache) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    store.put_bytes(object_key(empty), b"")
    assert cache.get(store, object_key(empty), empty, 0).read_bytes() == b""


def test_a_digest_that_could_leave_the_cache_is_refused(
    file_store: Store, cache: Cache
) -> None:
    with pytest.raises(UserError, match="not a SHA-256"):
        cache.get(file_store, KEY, "../../../etc/passwd", 1)


def test_an_adopted_file_is_shared_and_read_only(
    cache: Cache, payload: Path, file_store: Store
) -> None:
    assert cache.adopt(payload) == DIGEST
    place = cache.get(file_store, KEY, DIGEST, len(DATA))
    assert place.samefile(payload)
    assert payload.stat().st_mode & 0o777 == 0o444
    payload.unlink()
    assert place.read_bytes() == DATA


def test_adopting_the_same_bytes_twice_keeps_one_file(
    cache: Cache, payload: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    again.write_bytes(DATA)
    assert cache.adopt(payload) == cache.adopt(payload) == cache.adopt(again) == DIGEST
    assert len(files_in(cache)) == 1
    assert again.stat().st_mode & 0o777 == 0o444
    assert again.read_bytes() == DATA


def test_adopting_replaces_a_cut_off_file(
    cache: Cache, payload: Path, file_store: Store
) -> None:
    place = cache.folder / DIGEST[:2] / DIGEST
    place.parent.mkdir(parents=True)
    place.write_bytes(b"wei")
    cache.adopt(payload)
    assert cache.get(file_store, KEY, DIGEST, len(DATA)).read_bytes() == DATA
    assert files_in(cache) == [place]


def test_a_file_of_another_file_system_is_copied(
    payload: Path, file_store: Store, other_file_system: Path
) -> None:
    assert other_file_system.stat().st_dev != payload.stat().st_dev, (
        "this test needs two file systems"
    )
    cache = Cache(other_file_system / "objects")
    assert cache.adopt(payload) == DIGEST
    place = cache.get(file_store, KEY, DIGEST, len(DATA))
    assert place.read_bytes() == DATA
    assert place.stat().st_mode & 0o777 == 0o444
    assert files_in(cache) == [place]
    link_or_copy(place, payload.parent / "copy")
    assert (payload.parent / "copy").read_bytes() == DATA


def test_many_threads_get_one_file(store: Store, cache: Cache, payload: Path) -> None:
    store.put_file(KEY, payload, DIGEST)
    with ThreadPoolExecutor(16) as pool:
        places = set(
            pool.map(lambda _: cache.get(store, KEY, DIGEST, len(DATA)), range(32))
        )
    assert [place.read_bytes() for place in places] == [DATA]
    assert files_in(cache) == list(places)


@pytest.mark.process
def test_many_processes_share_one_cache(
    file_store: Store, cache: Cache, tmp_path: Path
) -> None:
    digests = []
    for number in range(5):
        data = os.urandom(50_000)
        digests.append(hashlib.sha256(data).hexdigest())
        file_store.put_bytes(object_key(digests[number]), data)
    program = """
import hashlib, pathlib, sys
from components.storage.cache import Cache
from components.storage.keys import object_key
from components.storage.store import open_store
folder, uri, *digests = sys.argv[1:]
for digest in digests:
    place = Cache(pathlib.Path(folder)).get(open_store(uri, {}), object_key(digest), digest, 50_000)
    assert hashlib.sha256(place.read_bytes()).hexdigest() == digest
"""
    readers = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                program,
                str(cache.folder),
                file_store.root,
                *digests,
            ],
            cwd=Path(__file__).parents[2],
        )
        for _ in range(6)
    ]
    assert [reader.wait() for reader in readers] == [0] * 6
    assert sorted(path.name for path in files_in(cache)) == sorted(digests)


def test_a_folder_of_another_user_is_refused(
    file_store: Store, payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "ratchet-cache"
    (shared / "objects").mkdir(parents=True)
    file_store.put_file(KEY, payload, DIGEST)
    Cache(shared / "objects").get(file_store, KEY, DIGEST, len(DATA))
    if os.getuid() == 0:
        os.chown(shared, 54321, 54321)
    else:
        # Only root may give a folder away; anybody may see it with the eyes of another user.
        monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(UserError, match=r"belongs to user .* set RATCHET_CACHE"):
        Cache(shared / "objects").get(file_store, KEY, DIGEST, len(DATA))


def test_a_cache_that_cannot_be_made_is_named(
    file_store: Store, payload: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{tmp_path}/file/cache"):
        Cache(tmp_path / "file" / "cache" / "objects").adopt(payload)
