"""Receipts: work is done once, results are verified, and what a receipt says is checked before it
is believed."""

from __future__ import annotations

import ast
import functools
import importlib.util
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import RootModel

import components
from components.canonical import canonical_json, digest_of
from components.contracts.summaries import PublishSummary, StartSummary, TrainSummary
from components.errors import Corrupt, Missing, OlderReceipt, Transient, UserError
from components.runtime import code_digest
from components.runtime.attempts import Attempt, Task
from components.runtime.context import Context
from components.runtime.receipts import (
    Receipt,
    commit_once,
    fetch,
    fetch_folder,
    find_receipt,
    read_receipt,
    read_summary,
    receipt_uri,
    ref_of_uri,
)
from components.storage import keys
from components.storage.store import Store

TASK = Task(run_id="run-1", name="train-r1", round=1)
Make = Callable[[Store], Context]


class Numbers(RootModel[dict[str, int | float]]):
    """A summary."""


class Work:
    """A small step that counts how often it was done."""

    def __init__(self, text: str = "weights") -> None:
        self.text = text
        self.times = 0

    def __call__(self, folder: Path) -> Numbers:
        self.times += 1
        (folder / "model" / "deep").mkdir(parents=True)
        (folder / "model" / "weights.bin").write_text(self.text)
        (folder / "model" / "deep" / "config.json").write_text("{}")
        (folder / "log.jsonl").write_text("")
        return Numbers({"steps": 3, "final_loss": 0.5})


def commit(
    context: Context,
    work: Callable[[Path], Numbers],
    *,
    rate: float = 0.1,
    seed: int = 7,
    inputs: dict[str, Receipt] | None = None,
) -> Receipt:
    return commit_once(
        context, TASK, "train", config={"rate": rate}, inputs=inputs or {}, seed=seed, work=work
    )


def attempts_of(context: Context) -> list[Attempt]:
    addresses = list(context.store.list(keys.attempts_prefix(TASK.run_id)))
    return [Attempt.from_bytes(context.store.get_bytes(key)) for key in addresses]


def rewrite(context: Context, receipt: Receipt, change: Callable[[dict[str, Any]], object]) -> None:
    """Put a changed document, with a checksum that fits, in the receipt's place."""
    document = receipt.model_dump(mode="json")
    change(document)
    document["checksum"] = digest_of(document)
    context.store.put_bytes(keys.receipt_key(receipt.step, receipt.key), canonical_json(document))


def test_the_files_and_summary_of_a_step_can_be_read_elsewhere(
    store: Store, make_test_context: Make
) -> None:
    here, elsewhere = make_test_context(store), make_test_context(store)
    made = commit(here, Work())
    found = read_receipt(elsewhere, made.ref)
    assert found == made
    assert found.digest == made.digest
    assert found.summary == {"steps": 3, "final_loss": 0.5}
    assert sorted(found.objects) == ["log.jsonl", "model/deep/config.json", "model/weights.bin"]
    assert fetch(elsewhere, found, "model/weights.bin").read_text() == "weights"
    assert fetch(elsewhere, found, "log.jsonl").read_bytes() == b""
    folder = fetch_folder(elsewhere, found, "model")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == [
        "deep",
        "deep/config.json",
        "weights.bin",
    ]
    assert (folder / "weights.bin").stat().st_mode & 0o222 == 0


def test_the_same_work_is_done_once(store: Store, make_test_context: Make) -> None:
    work = Work()
    first = commit(make_test_context(store), work)
    assert commit(make_test_context(store), work) == first
    assert work.times == 1


def test_whatever_the_result_depends_on_changes_the_address(context: Context) -> None:
    receipts = [
        commit(context, Work()),
        commit(context, Work(), rate=0.2),
        commit(context, Work(), seed=8),
        commit(context, Work(), inputs={"mix": commit(context, Work())}),
        commit(context, Work(), inputs={"mix": commit(context, Work("other"), rate=0.3)}),
        commit_once(context, TASK, "select", config={"rate": 0.1}, inputs={}, seed=7, work=Work()),
    ]
    assert len({receipt.ref for receipt in receipts}) == 6


COMPONENTS = Path(components.__file__ or "").parent
STEPS = sorted(path.parent.name for path in COMPONENTS.glob("*/step.py"))


def sources_behind(module: Path) -> set[Path]:
    """Our modules that a module imports, at its top or within a function, directly or not."""
    reached, waiting = set[Path](), [module]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        waiting += imported_sources(path)
    return reached


@functools.cache
def imported_sources(path: Path) -> tuple[Path, ...]:
    """Our modules that one module names in an import."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    sources: list[Path] = []
    for name in names:
        package, *inner = name.split(".")
        if package == "components":
            module = COMPONENTS.joinpath(*inner)
            candidates = (module.with_suffix(".py"), module / "__init__.py")
            sources += [candidate for candidate in candidates if candidate.is_file()]
    return tuple(sources)


def folder_of(path: Path) -> str:
    """Return the folder of `components` that a source is in; empty for `components` itself."""
    return next(iter(path.relative_to(COMPONENTS).parent.parts), "")


class CopiedSources:
    """A copy of `components` whose files a test changes."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "components"
        shutil.copytree(COMPONENTS, self.tree, ignore=shutil.ignore_patterns("__pycache__"))
        self._parsed: dict[tuple[Path, bytes], object] = {}

    def path(self, original: Path) -> Path:
        """Return the copy of a source."""
        return self.tree / original.relative_to(COMPONENTS)

    def digests(self) -> dict[str, str]:
        """Return the digest of each step's code, as a new process computes it."""
        copy = self.path(Path(code_digest.__file__))
        spec = importlib.util.spec_from_file_location("digest_of_a_copy", copy)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        parse = module._source.__wrapped__

        # A process parses a source once. Here a change comes dozens of times, and two hundred
        # sources take a second: what did not change is not parsed again.
        def parsed(path: Path) -> object:
            key = (path, path.read_bytes())
            if key not in self._parsed:
                self._parsed[key] = parse(path)
            return self._parsed[key]

        vars(module)["_source"] = functools.cache(parsed)
        return {step: module.code_digest(step) for step in STEPS}


def one_source_of_each_folder(behind: dict[str, set[Path]]) -> set[Path]:
    """Return a few sources, among them one of each folder that is behind a step, for every step."""
    steps_of = Counter(path for sources in behind.values() for path in sources)
    by_use = sorted(steps_of, key=lambda path: (-steps_of[path], path))
    chosen = set[Path]()
    covered = set[tuple[str, str]]()
    for path in by_use:
        folders = {(step, folder_of(path)) for step in STEPS if path in behind[step]}
        if folders - covered:
            covered |= folders
            chosen.add(path)
    return chosen


def test_a_change_of_any_module_that_a_step_runs_changes_its_address(tmp_path: Path) -> None:
    """And no other change does: work that is found done was done by this very code."""
    copies = CopiedSources(tmp_path)
    unchanged = copies.digests()
    assert copies.digests() == unchanged
    behind = {step: sources_behind(COMPONENTS / step / "step.py") for step in STEPS}
    for path in sorted(one_source_of_each_folder(behind)):
        copy = copies.path(path)
        source = copy.read_text(encoding="utf-8")
        copy.write_text(source + "CHANGED = 1\n", encoding="utf-8")
        digests = copies.digests()
        changed_steps = {step for step in STEPS if digests[step] != unchanged[step]}
        assert changed_steps == {step for step in STEPS if path in behind[step]}, path
        copy.write_text(f"# A comment.\n{source}\n\n# Another.\n", encoding="utf-8")
        assert copies.digests() == unchanged, path
        copy.write_text(source.replace('"""', '"""Reworded: ', 1), encoding="utf-8")
        assert copies.digests() == unchanged, path
        copy.write_text(source, encoding="utf-8")


def test_a_filter_of_select_is_no_part_of_a_training() -> None:
    assert code_digest.code_digest("train") != code_digest.code_digest("select")
    behind = sources_behind(COMPONENTS / "train" / "step.py")
    assert not any("select" in path.parts for path in behind)


def test_what_a_step_starts_as_a_process_is_part_of_its_code(tmp_path: Path) -> None:
    copies = CopiedSources(tmp_path)
    unchanged = copies.digests()
    with copies.path(COMPONENTS / "train" / "process" / "worker.py").open("a") as file:
        file.write("CHANGED = 1\n")
    assert copies.digests()["train"] != unchanged["train"]


def test_the_order_of_names_does_not_change_the_address(context: Context) -> None:
    a, b = commit(context, Work(), seed=1), commit(context, Work(), seed=2)
    work = Work()
    first = commit_once(
        context, TASK, "train", config={"x": 1, "y": 2}, inputs={"a": a, "b": b}, seed=7, work=work
    )
    again = commit_once(
        context, TASK, "train", config={"y": 2, "x": 1}, inputs={"b": b, "a": a}, seed=7, work=work
    )
    assert first == again
    assert work.times == 1


def test_a_receipt_is_the_same_on_every_machine(make_test_context: Make, tmp_path: Path) -> None:
    from components.storage.store import open_store

    stores = [open_store(f"file://{tmp_path}/store-{name}", {}) for name in "ab"]
    assert len({commit(make_test_context(store), Work()).to_bytes() for store in stores}) == 1


def test_of_two_that_do_the_same_work_at_once_the_first_receipt_is_everybodys(
    store: Store, make_test_context: Make
) -> None:
    together = threading.Barrier(8)

    def do(number: int) -> Receipt:
        def work(folder: Path) -> Numbers:
            together.wait()
            (folder / "answer").write_text(f"of worker {number}")
            return Numbers({"worker": number})

        return commit(contexts[number], work)

    contexts = [make_test_context(store) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(do, range(8)))
    assert len({receipt.digest for receipt in receipts}) == 1
    winner = receipts[0].summary["worker"]
    assert fetch(contexts[0], receipts[0], "answer").read_text() == f"of worker {winner}"


def test_work_that_fails_leaves_no_receipt_and_no_files_and_can_be_done_again(
    context: Context,
) -> None:
    def failing(folder: Path) -> Numbers:
        (folder / "half").write_text("half")
        raise UserError("the learning rate is too high; lower it")

    with pytest.raises(UserError, match="lower it"):
        commit(context, failing)
    assert list(context.store.list("steps/")) == []
    assert list(context.store.list("objects/")) == []
    assert list(context.scratch.iterdir()) == []
    assert [(one.error, one.error_kind) for one in attempts_of(context)] == [
        ("the learning rate is too high; lower it", "UserError")
    ]
    assert commit(context, Work()).summary["steps"] == 3


def test_attempts_tell_of_time_memory_and_reuse(store: Store, make_test_context: Make) -> None:
    first = make_test_context(store)
    first.charge("tokens", 5)
    receipt = commit(first, Work())
    done = attempts_of(first)[0]
    assert done.receipt == receipt.ref
    assert not done.reused
    assert done.costs == {"tokens": 5, "verify_seconds": 0.0}
    assert done.peak_memory_bytes > 1_000_000
    assert 0 <= done.work_seconds <= done.seconds
    commit(make_test_context(store), Work())
    assert [one.reused for one in attempts_of(first)] == [False, True]


def test_an_attempt_is_on_record_before_the_work_begins(context: Context) -> None:
    def looking(folder: Path) -> Numbers:
        seen.extend(attempts_of(context))
        return Numbers({})

    seen: list[Attempt] = []
    commit(context, looking)
    assert [(one.task, one.receipt, one.error) for one in seen] == [("train-r1", "", "")]
    assert [(one.seconds, one.work_seconds, one.reused) for one in seen] == [(0.0, 0.0, False)]


def test_a_store_that_breaks_during_the_work_does_not_hide_why_the_work_failed(
    context: Context, tmp_path: Path
) -> None:
    def failing(folder: Path) -> Numbers:
        shutil.rmtree(tmp_path / "store")
        (tmp_path / "store").write_text("a file where the folder was")
        raise Transient("the queue is full")

    with pytest.raises(Transient, match="the queue is full"):
        commit(context, failing)


def test_a_store_that_cannot_be_used_is_found_before_the_work(
    context: Context, tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    work = Work()
    with pytest.raises(UserError, match=f"{tmp_path}/store"):
        commit(context, work)
    assert work.times == 0


def test_a_file_name_that_is_no_key_is_refused(context: Context) -> None:
    def work(folder: Path) -> Numbers:
        (folder / "name with spaces").write_text("")
        return Numbers({})

    with pytest.raises(UserError, match="name with spaces"):
        commit(context, work)


def test_work_not_done_yet_has_no_receipt(context: Context) -> None:
    assert find_receipt(context, "train", "0123") is None
    with pytest.raises(Missing, match=r"steps/train/0123.json"):
        read_receipt(context, "train/0123")


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_finished_work_without_its_objects_is_corrupt_and_named(
    context: Context, tmp_path: Path, damage: str
) -> None:
    receipt = commit(context, Work())
    key = keys.object_key(receipt.objects["model/weights.bin"].sha256)
    if damage == "gone":
        (tmp_path / "store" / key).unlink()
    else:
        context.store.put_bytes(key, b"wei")
    with pytest.raises(Corrupt, match=r"model/weights.bin") as caught:
        find_receipt(context, "train", receipt.key)
    assert key in str(caught.value)
    assert ("gone" if damage == "gone" else "3 bytes instead of 7") in str(caught.value)
    with pytest.raises(Corrupt, match=key):
        commit(context, Work())


def test_a_garbled_object_is_found_when_it_is_fetched(
    store: Store, make_test_context: Make
) -> None:
    receipt = commit(make_test_context(store), Work())
    key = keys.object_key(receipt.objects["model/weights.bin"].sha256)
    store.put_bytes(key, b"wEights")
    context = make_test_context(store)
    with pytest.raises(Corrupt, match=key):
        fetch(context, receipt, "model/weights.bin")
    with pytest.raises(Corrupt, match=key):
        fetch_folder(context, receipt, "model")
    assert list(context.scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda document: document.pop("summary"), "summary"),
        (lambda document: document.update(surprise=1), "surprise"),
        (lambda document: document.update(schema_version=4), "schema_version"),
        (
            lambda document: document["objects"].update(
                {"../../escape": {"sha256": "a" * 64, "size": 1}}
            ),
            "escape",
        ),
        (
            lambda document: document["objects"].update(
                {"/etc/passwd": {"sha256": "a" * 64, "size": 1}}
            ),
            "passwd",
        ),
        (
            lambda document: document["objects"].update({"x": {"sha256": "../x", "size": 1}}),
            "sha256",
        ),
        (
            lambda document: document["objects"].update({"x": {"sha256": "a" * 64, "size": -1}}),
            "size",
        ),
        (lambda document: document.update(step="select"), "holds the receipt of select/"),
        (lambda document: document.update(key="other"), "holds the receipt of train/other"),
    ],
)
def test_a_document_that_is_no_receipt_is_corrupt_and_says_why(
    context: Context, change: Callable[[dict[str, Any]], object], word: str
) -> None:
    receipt = commit(context, Work())
    rewrite(context, receipt, change)
    with pytest.raises(Corrupt, match=word) as caught:
        read_receipt(context, receipt.ref)
    assert f"{context.store.root}/steps/train/{receipt.key}.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_flipped_bit_of_a_receipt_goes_unnoticed(context: Context) -> None:
    receipt = commit(context, Work())
    address = keys.receipt_key(receipt.step, receipt.key)
    data = receipt.to_bytes()
    draw = random.Random(0)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << draw.randrange(8)
        context.store.put_bytes(address, bytes(flipped))
        with pytest.raises((Corrupt, OlderReceipt), match=receipt.key):
            read_receipt(context, receipt.ref)


def test_a_changed_result_is_named_with_what_to_do(context: Context) -> None:
    receipt = commit(context, Work())
    address = keys.receipt_key(receipt.step, receipt.key)
    better = receipt.to_bytes().replace(b'"final_loss":0.5', b'"final_loss":0.1')
    context.store.put_bytes(address, better)
    with pytest.raises(Corrupt, match=rf"{address} was changed .* restore it, or delete it"):
        read_receipt(context, receipt.ref)


def test_an_input_swapped_for_another_is_noticed_although_the_checksum_fits(
    context: Context,
) -> None:
    receipt = commit(context, Work())
    rewrite(context, receipt, lambda document: document["inputs"].update(data="0" * 64))
    with pytest.raises(Corrupt, match="belong to key"):
        read_receipt(context, receipt.ref)


def test_a_receipt_of_an_older_version_is_named_as_such(context: Context) -> None:
    receipt = commit(context, Work())
    rewrite(context, receipt, lambda document: document.update(schema_version=1))
    with pytest.raises(UserError) as caught:
        read_receipt(context, receipt.ref)
    assert str(caught.value) == (
        f"{context.store.root}/steps/train/{receipt.key}.json was written by an older Ratchet "
        "(receipt version 1); use a new store, or the version that wrote it"
    )
    with pytest.raises(UserError, match="older Ratchet"):
        commit(context, Work())


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff\xfe", b"[1]"])
def test_bytes_that_are_no_document_are_corrupt(context: Context, content: bytes) -> None:
    receipt = commit(context, Work())
    context.store.put_bytes(keys.receipt_key("train", receipt.key), content)
    with pytest.raises(Corrupt, match="not a receipt"):
        read_receipt(context, receipt.ref)


@pytest.mark.parametrize(
    "ref", ["", "train", "train/", "/key", "../x/y", "train/a/b", "train/../x"]
)
def test_a_reference_that_names_no_receipt_is_refused(context: Context, ref: str) -> None:
    with pytest.raises(UserError):
        read_receipt(context, ref)


def test_a_file_that_the_receipt_does_not_list_is_refused(context: Context) -> None:
    receipt = commit(context, Work())
    with pytest.raises(Corrupt, match=r"lists no file 'weights.bin'"):
        fetch(context, receipt, "weights.bin")
    with pytest.raises(Corrupt, match="lists no files below mod/"):
        fetch_folder(context, receipt, "mod")


def test_the_uri_of_a_receipt_leads_back_to_it(store: Store, make_test_context: Make) -> None:
    context = make_test_context(store)
    receipt = commit(context, Work())
    assert ref_of_uri(context, receipt_uri(context, receipt)) == receipt.ref


def test_another_spelling_of_the_same_store_is_the_same_store(
    context: Context, tmp_path: Path
) -> None:
    assert ref_of_uri(context, f"file://{tmp_path}//./store/steps/train/0123.json") == "train/0123"


def test_a_receipt_of_another_store_is_refused_with_both_names(context: Context) -> None:
    with pytest.raises(
        UserError, match=f"s3://other/runs/steps/train/0123.json.*{context.store.root}"
    ):
        ref_of_uri(context, "s3://other/runs/steps/train/0123.json")


def test_a_summary_is_read_as_what_the_step_wrote(context: Context) -> None:
    written = StartSummary(
        counts={"train": 3},
        rejected={},
        parameters=7,
        base_digest="abc",
        dtype="float32",
        positions=None,
        supervised=True,
        first_mix="mix/0",
        base="prepare/0",
    )
    receipt = commit_once(
        context, TASK, "start", config={}, inputs={}, seed=0, work=lambda folder: written
    )
    assert read_summary(read_receipt(context, receipt.ref), StartSummary) == written


def test_a_summary_of_another_step_or_with_other_fields_is_corrupt_and_named(
    context: Context,
) -> None:
    receipt = commit(context, Work())
    with pytest.raises(Corrupt, match=f"{receipt.ref} is not a receipt of publish"):
        read_summary(receipt, PublishSummary)
    with pytest.raises(Corrupt, match=r"its summary is not a TrainSummary \(\w+: "):
        read_summary(receipt, TrainSummary)
