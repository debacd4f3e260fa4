"""One contract for every kind of store. The server of buckets is a real one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.errors import Corrupt, Missing, UserError
from components.storage.folder import write_file
from components.storage.store import Store, open_store, probe
from tests.unit.stored import KEY, object_of, sha256, written
from tests.waiting import wait_until

WRITERS = 16


@pytest.mark.parametrize("data", [b"", b"x", b"{}\n", bytes(range(256)) * 999])
def test_bytes_come_back_as_they_were_stored(store: Store, data: bytes) -> None:
    assert store.put_bytes(KEY, data)
    assert store.get_bytes(KEY) == data
    assert store.size(KEY) == len(data)


def test_a_document_can_be_replaced(store: Store) -> None:
    store.put_bytes(KEY, b"running")
    assert store.put_bytes(KEY, b"done")
    assert store.get_bytes(KEY) == b"done"


def test_another_content_is_another_version(store: Store) -> None:
    store.put_bytes(KEY, b"first")
    first = store.version(KEY)
    assert store.version(KEY) == first
    store.put_bytes(KEY, b"other")
    assert store.version(KEY) != first
    store.put_bytes(KEY, b"first")
    assert store.version(KEY) == first
    assert store.version("not/there") is None


@pytest.mark.parametrize("data", [b"", b"weights", b"w" * 1_000_003])
def test_a_file_comes_back_as_it_was_stored(
    store: Store, tmp_path: Path, data: bytes
) -> None:
    store.put_file(object_of(data), written(tmp_path, data), sha256(data))
    store.get_file(object_of(data), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert store.size(object_of(data)) == len(data)


@pytest.mark.parametrize(
    "elsewhere", [False, True], ids=["same file system", "another file system"]
)
def test_a_file_that_is_given_is_stored_and_gone(
    store: Store, tmp_path: Path, elsewhere: bool
) -> None:
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if elsewhere else tmp_path
    ) as folder:
        path, data = Path(folder) / "shard", b"w" * 1_000_003
        path.write_bytes(data)
        store.put_file(KEY, path, sha256(data), give=True)
        assert not path.exists()
    store.get_file(KEY, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_a_given_file_that_is_only_a_link_leaves_what_it_links_to(
    store: Store, tmp_path: Path
) -> None:
    target = written(tmp_path, b"weights")
    (tmp_path / "link").symlink_to(target)
    store.put_file(KEY, tmp_path / "link", sha256(b"weights"), give=True)
    assert store.get_bytes(KEY) == target.read_bytes() == b"weights"


def test_an_object_written_once_stays(store: Store) -> None:
    assert store.put_bytes(KEY, b"first", if_absent=True)
    assert not store.put_bytes(KEY, b"second", if_absent=True)
    assert store.get_bytes(KEY) == b"first"


def test_one_of_sixteen_writers_wins_and_its_bytes_stay(store: Store) -> None:
    store.size(KEY)
    together = threading.Barrier(WRITERS)

    def write(number: int) -> bool:
        together.wait()
        return store.put_bytes(KEY, b"writer %d" % number * 100, if_absent=True)

    with ThreadPoolExecutor(WRITERS) as pool:
        won = [
            number
            for number, first in enumerate(pool.map(write, range(WRITERS)))
            if first
        ]
    assert len(won) == 1
    assert store.get_bytes(KEY) == b"writer %d" % won[0] * 100


@pytest.mark.process
def test_one_of_sixteen_processes_wins_in_a_folder(
    file_store: Store, tmp_path: Path
) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from components.storage.store import open_store\n"
        "store = open_store(sys.argv[1], {})\n"
        "pathlib.Path(sys.argv[2], sys.argv[3]).touch()\n"
        "while not pathlib.Path(sys.argv[2], 'go').exists(): time.sleep(0.001)\n"
        f"print(store.put_bytes({KEY!r}, sys.argv[3].encode() * 1000, if_absent=True))"
    )
    ready, here = tmp_path / "ready", Path(__file__).parents[2]
    ready.mkdir()
    writers = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                program,
                file_store.root,
                str(ready),
                f"writer {number:02d}",
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=here,
        )
        for number in range(WRITERS)
    ]
    wait_until(lambda: len(list(ready.iterdir())) == WRITERS)
    (ready / "go").touch()
    won = [
        number
        for number, writer in enumerate(writers)
        if writer.communicate()[0].strip() == "True"
    ]
    assert len(won) == 1
    assert file_store.get_bytes(KEY) == f"writer {won[0]:02d}".encode() * 1000


def test_equal_bytes_from_many_writers_are_no_conflict(
    store: Store, tmp_path: Path
) -> None:
    data = b"the same shard" * 1000
    path = written(tmp_path, data)
    with ThreadPoolExecutor(WRITERS) as pool:
        list(
            pool.map(
                lambda _: store.put_file(object_of(data), path, sha256(data)),
                range(WRITERS),
            )
        )
    assert store.get_bytes(object_of(data)) == data


def test_a_content_address_that_is_there_is_not_sent_again(
    store: Store, tmp_path: Path
) -> None:
    data = b"weights"
    store.put_file(object_of(data), written(tmp_path, data), sha256(data))
    other = tmp_path / "other"
    other.write_bytes(b"WEIGHTS")
    store.put_file(object_of(data), other, sha256(data))
    assert store.get_bytes(object_of(data)) == data


def test_a_cut_off_content_address_is_mended(store: Store, tmp_path: Path) -> None:
    data = b"weights"
    store.put_bytes(object_of(data), b"wei")
    store.put_file(object_of(data), written(tmp_path, data), sha256(data))
    assert store.get_bytes(object_of(data)) == data


def test_any_other_key_takes_new_bytes_of_the_same_size(
    store: Store, tmp_path: Path
) -> None:
    for data in (b"accuracy: 0.71", b"accuracy: 0.93"):
        store.put_file(
            "models/reverse/1/README.md", written(tmp_path, data), sha256(data)
        )
    assert store.get_bytes("models/reverse/1/README.md") == b"accuracy: 0.93"


def test_a_file_that_is_not_its_digest_is_not_stored(
    store: Store, tmp_path: Path
) -> None:
    path = written(tmp_path, b"what was meant")
    path.write_bytes(b"what is there")
    with pytest.raises(Corrupt, match=sha256(b"what was meant")) as caught:
        store.put_file(object_of(b"what was meant"), path, sha256(b"what was meant"))
    assert str(path) in str(caught.value)
    assert store.size(object_of(b"what was meant")) is None


def test_an_absent_object_has_no_size_and_is_missing(
    store: Store, tmp_path: Path
) -> None:
    assert store.size(KEY) is None
    with pytest.raises(Missing, match=f"{store.root}/{KEY}"):
        store.get_bytes(KEY)
    with pytest.raises(Missing, match=f"{store.root}/{KEY}"):
        store.get_file(KEY, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_folder_is_no_object(store: Store) -> None:
    store.put_bytes(KEY, b"{}")
    assert store.size("steps/train") is None
    assert store.size(f"{KEY}/below") is None


def test_a_document_larger_than_expected_is_refused(store: Store) -> None:
    store.put_bytes(KEY, b"x" * 1001)
    assert len(store.get_bytes(KEY, max_bytes=1001)) == 1001
    with pytest.raises(Corrupt, match="1,000"):
        store.get_bytes(KEY, max_bytes=1000)


def test_a_download_never_overwrites_a_file(store: Store, tmp_path: Path) -> None:
    store.put_bytes(KEY, b"new")
    (tmp_path / "there").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        store.get_file(KEY, tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == b"old"


def test_a_listing_holds_the_keys_below_a_folder_in_order(store: Store) -> None:
    keys = ["a/x", "a/y/z", "a-b", "a.b", "ab", "b/a/x", "a/y/a"]
    for key in keys:
        store.put_bytes(key, b"1")
    assert list(store.list("")) == sorted(keys)
    assert list(store.list("a/")) == ["a/x", "a/y/a", "a/y/z"]
    assert list(store.list("a/y/")) == ["a/y/a", "a/y/z"]
    assert list(store.list("c/")) == []
    with pytest.raises(UserError, match="end it with"):
        store.list("a")


def test_a_deleted_object_is_gone_and_one_that_never_was_is_no_failure(
    store: Store,
) -> None:
    store.put_bytes("progress/train/k/step-1.json", b"one")
    store.put_bytes("progress/train/k/step-2.json", b"two")
    for _ in range(2):
        store.delete("progress/train/k/step-1.json")
    assert store.size("progress/train/k/step-1.json") is None
    assert list(store.list("progress/train/")) == ["progress/train/k/step-2.json"]
    assert store.put_bytes("progress/train/k/step-1.json", b"new", if_absent=True)
    with pytest.raises(UserError):
        store.delete("../outside")


def test_a_listing_of_an_empty_store_is_empty(store: Store) -> None:
    assert list(store.list("")) == []


@pytest.mark.parametrize(
    "key",
    [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a//b",
        "a/./b",
        "",
        "a/",
        "a\0b",
        "..",
        "a\nb",
    ],
)
def test_a_key_that_could_leave_the_store_is_refused(
    store: Store, tmp_path: Path, key: str
) -> None:
    path = written(tmp_path, b"payload")
    for attempt in (
        lambda: store.put_bytes(key, b"payload"),
        lambda: store.put_bytes(key, b"payload", if_absent=True),
        lambda: store.put_file(key, path, sha256(b"payload")),
        lambda: store.get_bytes(key),
        lambda: store.get_file(key, tmp_path / "back"),
        lambda: store.size(key),
        lambda: store.list(f"{key}/"),
    ):
        with pytest.raises(UserError, match="object key"):
            attempt()


def test_a_usable_store_passes_the_probe_and_keeps_one_object_of_it(
    store: Store,
) -> None:
    probe(store)
    probe(store)
    assert list(store.list("")) == ["probe/write-once.json"]
    assert list(store.list("attempts/")) == []


def test_opening_a_store_touches_nothing(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/new", {})
    assert store.size(KEY) is None
    assert list(tmp_path.iterdir()) == []
    open_store(
        "s3://no-such-bucket-anywhere/prefix",
        {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"},
    )


def test_objects_in_a_folder_are_read_only_and_readable_as_the_umask_allows(
    file_store: Store, tmp_path: Path
) -> None:
    before = os.umask(0o022)
    try:
        file_store.put_bytes(KEY, b"{}")
    finally:
        os.umask(before)
    place = tmp_path / "store" / KEY
    assert place.stat().st_mode & 0o777 == 0o444
    assert place.parent.stat().st_mode & 0o777 == 0o755
    assert list((tmp_path / "store" / ".incoming").iterdir()) == []


@pytest.mark.parametrize(
    "name", [".", "folder", "file/page.html", "file/sub/page.html"]
)
def test_a_file_that_a_person_names_wrongly_is_one_line(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be used"):
        write_file(tmp_path / name, b"page")
    assert (tmp_path / "file").read_text() == "mine"
    write_file(tmp_path / "new" / "page.html", b"page")
    assert (tmp_path / "new" / "page.html").read_bytes() == b"page"
