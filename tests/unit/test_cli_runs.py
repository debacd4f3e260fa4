"""Verbs that look at finished runs: readable anywhere, and honest about damage."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from components.canonical import canonical_json, digest_of
from components.errors import Transient
from components.runtime.context import Context
from components.storage import keys
from tests.unit.commanding import TINY, cli
from tests.unit.handmade import HOSTILE, Campaign, whole_campaign

pytestmark = pytest.mark.process


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_a_run_is_readable_on_any_terminal(
    tmp_path: Path, context: Context, columns: int
) -> None:
    made = whole_campaign(context)
    done = cli(
        tmp_path, "status", made.run_id, "--store", context.store.root, columns=columns
    )
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= columns
    for piece in (
        "target met",
        "93.0 % [88.0–97.5]",
        "518/800",
        "promoted",
        "train-r3",
        "40.0 s",
    ):
        assert piece in done.stdout


def test_status_of_the_latest_run_is_one_json_document(
    tmp_path: Path, context: Context
) -> None:
    made = whole_campaign(context)
    told = json.loads(
        cli(tmp_path, "status", "--json", "--store", context.store.root).stdout
    )
    assert told["run_id"] == made.run_id
    assert [one["verdict"] for one in told["rounds"]] == [
        "promoted",
        "promoted",
        "rejected",
        "promoted",
    ]
    assert told["model"] == "models/by-hand/v1/"


def test_any_encoding_of_a_terminal_and_any_name_of_a_file_can_be_printed(
    tmp_path: Path, context: Context
) -> None:
    made = whole_campaign(context)
    store = ("--store", context.store.root)
    status = cli(tmp_path, "status", *store, encoding="ascii")
    assert (status.returncode, status.stderr) == (0, "")
    assert made.run_id in status.stdout
    document = cli(tmp_path, "status", "--json", *store, encoding="ascii")
    assert json.loads(document.stdout)["run_id"] == made.run_id
    # What `os.fsdecode` makes of a byte that is no UTF-8.
    refused = cli(tmp_path, "run", "caf\udce9.yaml")
    assert refused.returncode == 2
    assert refused.stderr == "error: recipe caf\\udce9.yaml: no such file\n"


def test_an_unknown_run_and_an_empty_store_are_the_users_to_mend(
    tmp_path: Path, context: Context
) -> None:
    store = context.store.root
    empty = cli(tmp_path, "status", "--store", store)
    assert (empty.returncode, "holds no run yet" in empty.stderr) == (2, True)
    for verb in (
        ("status", "an other"),
        ("verify", "other"),
        ("report", "other", "-o", "r.html"),
    ):
        done = cli(tmp_path, *verb, "--store", store)
        assert (done.returncode, f"knows no run {verb[1]!r}" in done.stderr) == (
            2,
            True,
        )


def test_show_prints_a_receipt_and_the_rounds_of_its_state(
    tmp_path: Path, context: Context
) -> None:
    made = whole_campaign(context)
    assert made.last is not None
    uri = f"{context.store.root}/{keys.receipt_key(made.last.step, made.last.key)}"
    (tmp_path / "pointer").write_text(json.dumps({"uri": uri}))
    for target in (made.last.ref, uri, "pointer"):
        done = cli(tmp_path, "show", target, "--store", context.store.root, columns=140)
        assert done.returncode == 0, done.stderr
        assert made.last.digest in done.stdout
        assert "186 of 200 right" in done.stdout
    assert (
        json.loads(cli(tmp_path, "show", uri, "--json").stdout)["state"]["stop"]
        == "target"
    )
    assert (
        cli(tmp_path, "show", "nonsense", "--store", context.store.root).returncode == 2
    )
    # A reference that a person mistyped is no damage.
    for verb in ("show", "verify"):
        done = cli(
            tmp_path, verb, "train/abc", "--store", context.store.root, columns=400
        )
        assert (
            done.returncode,
            "has no receipt train/abc; `status" in done.stderr,
        ) == (2, True)


def test_a_store_of_an_older_version_is_named_as_such_by_every_verb(
    tmp_path: Path, context: Context
) -> None:
    made = whole_campaign(context)
    assert made.last is not None
    folder = Path(context.store.root.removeprefix("file://"))
    for path in folder.glob("steps/*/*.json"):
        path.chmod(0o644)
        path.write_text(
            json.dumps({**json.loads(path.read_text()), "schema_version": 1})
        )
    for verb in (
        ("status",),
        ("verify",),
        ("report", "-o", "r.html"),
        ("show", made.last.ref),
    ):
        done = cli(tmp_path, *verb, "--store", context.store.root, columns=400)
        assert done.returncode == 2, (verb, done.stdout)
        assert (
            "was written by an older Ratchet (receipt version 1); use a new store"
            in done.stderr
        )
        assert "Traceback" not in done.stderr
        assert "damaged" not in done.stdout + done.stderr
    # Another recipe in the same store meets none of these receipts, but a campaign to go on from.
    (tmp_path / "r.yaml").write_text(TINY)
    state = f"{context.store.root}/{keys.receipt_key(made.last.step, made.last.key)}"
    told = ("--store", context.store.root, "--resume-from", state)
    done = cli(tmp_path, "run", "r.yaml", *told, columns=400)
    assert (done.returncode, "receipt version 1" in done.stderr) == (2, True), (
        done.stderr
    )


def test_text_of_data_cannot_steer_the_terminal(
    tmp_path: Path, context: Context
) -> None:
    made = Campaign(context)
    made.prepare()
    made.fail("train", "train-r0", 0, Transient(f"server said {HOSTILE}[bold]x[/bold]"))
    done = cli(tmp_path, "status", "--store", context.store.root)
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "[bold]x[/bold]" in done.stdout


def test_verify_passes_a_whole_run_and_names_every_damaged_object(
    tmp_path: Path, context: Context
) -> None:
    made = whole_campaign(context)
    store = context.store.root
    assert cli(tmp_path, "verify", "--store", store).returncode == 0
    folder = Path(store.removeprefix("file://"))
    train, publish = (
        next(folder.glob(f"steps/{step}/*.json")) for step in ("train", "publish")
    )
    addresses = [
        keys.object_key(one["sha256"])
        for one in json.loads(train.read_text())["objects"].values()
    ]
    gone, flipped = folder / addresses[0], folder / addresses[1]
    gone.unlink()
    flipped.chmod(0o600)
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 1]) + flipped.read_bytes()[1:])
    changed = publish.read_text().replace('"seed":0', '"seed":1')
    publish.chmod(0o600)
    publish.write_text(changed)
    done = cli(tmp_path, "verify", made.run_id, "--json", "--store", store)
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert len(told["damaged"]) == 3
    for name in (*addresses, f"steps/publish/{publish.name}"):
        assert any(name in line for line in told["damaged"])
        assert name in done.stderr
    assert (
        cli(tmp_path, "verify", f"train/{train.stem}", "--store", store).returncode == 3
    )


def test_verify_sees_that_an_input_was_changed_after_others_were_built_on_it(
    tmp_path: Path, context: Context
) -> None:
    whole_campaign(context)
    folder = Path(context.store.root.removeprefix("file://"))
    decided = (
        json.loads(path.read_text()) for path in folder.glob("steps/decide/*.json")
    )
    built_on = {receipt["inputs"].get("results") for receipt in decided}
    evaluations = folder.glob("steps/evaluate/*.json")
    path = next(
        path
        for path in evaluations
        if sha256(path.read_bytes()).hexdigest() in built_on
    )
    document = json.loads(path.read_text())
    del document["checksum"]
    document["summary"]["validation_accuracy"] = 0.99
    path.chmod(0o600)
    path.write_bytes(canonical_json({**document, "checksum": digest_of(document)}))
    done = cli(tmp_path, "verify", "--store", context.store.root)
    assert done.returncode == 3
    assert "no receipt of the run has the digest of its input results" in done.stderr


def test_verify_names_a_receipt_with_a_changed_result_and_nothing_innocent(
    tmp_path: Path, context: Context
) -> None:
    whole_campaign(context)
    folder = Path(context.store.root.removeprefix("file://"))
    path = next(folder.glob("steps/evaluate/*.json"))
    path.chmod(0o600)
    path.write_text(
        path.read_text().replace('"validation_accuracy":0.', '"validation_accuracy":1.')
    )
    done = cli(tmp_path, "verify", "--json", "--store", context.store.root)
    assert done.returncode == 3
    [damaged] = json.loads(done.stdout)["damaged"]
    assert f"steps/evaluate/{path.name} was changed" in damaged


def test_report_writes_the_page(
    tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    whole_campaign(context)
    for folder in (".", "folder", "file/page.html"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "file").write_text("mine")
        refused = cli(tmp_path, "report", "-o", folder, "--store", context.store.root)
        assert refused.returncode == 2, refused.stderr
        assert refused.stderr.startswith("error: ")
        assert refused.stderr.count("\n") == 1
    # A shell leaves the `~` of such an option to us.
    for option in ("--output=~nobody-here/page.html", "--store=~nobody-here/store"):
        refused = cli(tmp_path, "report", "-o", "page.html", option)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), (
            refused.stderr
        )
        assert "there is no home folder for ~nobody-here" in refused.stderr
    at_home = cli(
        tmp_path, "report", "--output=~/page.html", "--store", context.store.root
    )
    assert at_home.returncode == 0, at_home.stderr
    assert (tmp_path / "home" / "page.html").read_text().startswith("<!doctype html>")
    done = cli(tmp_path, "report", "-o", "sub/page.html", "--store", context.store.root)
    assert done.returncode == 0
    assert (tmp_path / "sub" / "page.html").read_text().startswith("<!doctype html>")
