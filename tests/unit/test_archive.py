"""A run leaves a store as one file and comes into another one whole, or not at all."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from components.cli.archive.export import export_run
from components.cli.archive.take_over import import_run
from components.cli.verify import check_run
from components.errors import Corrupt, UserError
from components.report.runs import load_run
from components.report.summary import summary_of
from components.runtime.context import Context
from components.storage.folder import FileStore
from components.storage.store import Store
from tests.unit.handmade import RECIPE, Campaign, whole_campaign

Member = tuple[tarfile.TarInfo, bytes]


@pytest.fixture
def other(tmp_path: Path, make_test_context: Callable[[Store], Context]) -> Context:
    return make_test_context(FileStore(f"file://{tmp_path}/other-store"))


def members(path: Path) -> list[Member]:
    with tarfile.open(path) as tar:
        return [
            (one, ((file := tar.extractfile(one)) and file.read()) or b"")
            for one in tar
        ]


def written(path: Path, content: list[Member]) -> Path:
    with tarfile.open(path, "w") as tar:
        for member, data in content:
            tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return path


def member(name: str, data: bytes = b"") -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def keys_of(context: Context) -> list[str]:
    return sorted(context.store.list(""))


def test_a_run_is_in_the_other_store_as_it_was(
    tmp_path: Path, context: Context, other: Context
) -> None:
    first = whole_campaign(context)
    later = Campaign(
        context, {**RECIPE, "decide": {**RECIPE["decide"], "max_rounds": 9}}
    )
    later.go_on(first)
    later.round(3, 0.95, "promoted", stop="target")
    later.publish(target_met=True)
    exported = export_run(context, later.run_id, tmp_path / "run.tar")
    imported = import_run(other, tmp_path / "run.tar")
    assert (imported.run_id, imported.present) == (later.run_id, 0)
    assert check_run(other, later.run_id).damaged == []
    ours, theirs = (
        json.dumps(summary_of(load_run(one, later.run_id))).replace(
            one.store.root, "STORE"
        )
        for one in (context, other)
    )
    assert ours == theirs
    assert exported.receipts == check_run(other, later.run_id).receipts
    # The same campaign is the same file, and a second import changes nothing.
    export_run(context, later.run_id, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "run.tar").read_bytes()
    assert import_run(other, tmp_path / "run.tar").written == 0
    assert sorted(one.name for one in tmp_path.glob("*.tar")) == [
        "again.tar",
        "run.tar",
    ]


def test_a_changed_byte_anywhere_leaves_the_store_as_it_was(
    tmp_path: Path, context: Context, other: Context
) -> None:
    run = whole_campaign(context)
    export_run(context, run.run_id, tmp_path / "run.tar")
    whole = (tmp_path / "run.tar").read_bytes()
    step = len(whole) // 60
    for position in range(step // 2, len(whole), step):
        changed = bytes([whole[position] ^ 1])
        data = whole[:position] + changed + whole[position + 1 :]
        (tmp_path / "changed.tar").write_bytes(data)
        try:
            import_run(other, tmp_path / "changed.tar")
        except (Corrupt, UserError):
            assert keys_of(other) == [], position
        else:
            # Padding between members, and fields that nobody reads: all that was stored is right.
            assert check_run(other, run.run_id).damaged == []
            for key in keys_of(other):
                other.store.delete(key)
    for length in (0, 100, len(whole) // 2, len(whole) - 12_000):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises((Corrupt, UserError)):
            import_run(other, tmp_path / "cut.tar")
        assert keys_of(other) == []


@pytest.mark.parametrize(
    "name", ["../out", "/etc/out", "objects/../../out", "secrets/key", "steps//x"]
)
def test_names_that_lead_elsewhere_are_refused(
    tmp_path: Path, context: Context, other: Context, name: str
) -> None:
    run = whole_campaign(context)
    export_run(context, run.run_id, tmp_path / "run.tar")
    (about, document), *rest = members(tmp_path / "run.tar")
    manifest = json.loads(document)
    manifest["entries"][-1]["key"] = name
    changed = json.dumps(manifest).encode()
    about.size = len(changed)
    rest[-1][0].name = name
    path = written(tmp_path / "changed.tar", [(about, changed), *rest])
    with pytest.raises(UserError, match=r"cannot be part of|nothing of a campaign"):
        import_run(other, path)
    assert keys_of(other) == []


def test_what_is_no_archive_is_told_in_a_line(
    tmp_path: Path, context: Context, other: Context
) -> None:
    run = whole_campaign(context)
    export_run(context, run.run_id, tmp_path / "run.tar")
    first, *rest = members(tmp_path / "run.tar")
    link = tarfile.TarInfo(rest[0][0].name)
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    (tmp_path / "notes.txt").write_text("no archive")
    cases: dict[str, list[Member]] = {
        "no archive that": [member("README", b"hello")],
        "cannot be read": [member("manifest.json", b"[" * 100_000)],
        "in place of": [first, (link, b""), *rest[1:]],
        "holds more": [first, *rest, member("more", b"x")],
        "ends before": [first, *rest[:-1]],
    }
    for words, content in cases.items():
        with pytest.raises((UserError, Corrupt), match=words):
            import_run(other, written(tmp_path / "changed.tar", content))
    with pytest.raises(UserError, match="no archive that `export` wrote"):
        import_run(other, tmp_path / "notes.txt")
    with pytest.raises(UserError, match="no such file"):
        import_run(other, tmp_path / "none.tar")
    with pytest.raises(UserError, match="name a new file"):
        export_run(context, run.run_id, tmp_path / "run.tar")
    with pytest.raises(UserError, match="knows no run"):
        export_run(context, "never", tmp_path / "new.tar")
    assert keys_of(other) == []


def test_a_store_with_another_document_is_not_mixed_with_the_archive(
    tmp_path: Path, context: Context, other: Context
) -> None:
    run = whole_campaign(context)
    export_run(context, run.run_id, tmp_path / "run.tar")
    [key, *_] = sorted(context.store.list(f"attempts/{run.run_id}/"))
    other.store.put_bytes(key, b"{}")
    with pytest.raises(UserError, match="has another attempts/"):
        import_run(other, tmp_path / "run.tar")
    assert keys_of(other) == [key]
