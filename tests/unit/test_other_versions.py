"""What another version of Ratchet stored, and this one refuses, is told by run and key; no verb
ends with a traceback."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.canonical import JsonObject, canonical_json
from components.cli.main import app
from components.contracts.recipe_file import set_key
from components.contracts.reviews import ReviewBatch
from components.contracts.state import State
from components.errors import Corrupt, UserError
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, receipt_uri
from components.runtime.reviews import verdicts_in
from components.storage import keys
from tests.unit.commanding import TINY, cli
from tests.unit.crafted import (
    PLAN,
    first_mix,
    prepare_summary,
    recipe_of,
    start_summary,
    store,
)

RUN = "older-0123456789ab"
Change = Callable[[JsonObject], object]


def recipe_document() -> JsonObject:
    return recipe_of().model_dump(mode="json")


def started(
    context: Context, recipe: JsonObject, change_state: Change = lambda document: None
) -> Receipt:
    """The start of a run, with a recipe and a state as another version may store them."""
    prepared = store(context, "prepare", {}, prepare_summary())
    state = State(run_id=RUN, prepared=prepared.ref, plan=PLAN).model_dump(mode="json")
    change_state(state)
    files = {"recipe.json": canonical_json(recipe), "state.json": canonical_json(state)}
    mix = first_mix(context)
    return store(context, "start", files, start_summary(first_mix=mix.ref))


REFUSED_KEYS: list[tuple[str, object, str]] = [
    ("select.diversity", 3, "unknown key select.diversity"),
    ("data.human", [], "unknown key data.human"),
    ("nonsense", {}, "unknown key nonsense"),
    ("train.batch_size", "many", "train.batch_size: "),
    ("train.batch_size", 0, "train.batch_size: "),
    ("train.method", "ppo", "train.method: "),
    ("train.first", [], "train.first: "),
    ("generate.temperature", -1, "generate.temperature: "),
    ("model", None, "model: "),
    ("decide.goal", None, "decide.goal: "),
    ("name", "No Name", "name: "),
    ("train.packing", [True], "train.packing: "),
    (
        "train.layers",
        {"extra": 0, "trained": "inserted"},
        "train.layers: trained: inserted needs",
    ),
]


def refusal_of(context: Context, start: Receipt) -> str:
    """The line that a campaign costs which cannot be loaded."""
    with pytest.raises(UserError) as refused:
        load_campaign(context, receipt_uri(context, start))
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("key", "value", "words"), REFUSED_KEYS)
def test_a_stored_recipe_that_is_refused_is_told_by_run_and_key(
    context: Context, key: str, value: object, words: str
) -> None:
    document = recipe_document()
    set_key(document, key, value)
    message = refusal_of(context, started(context, document))
    assert message.startswith(
        f"run {RUN}: this version of Ratchet does not take its recipe"
    )
    assert words in message
    assert "begin a new run without resume_from" in message


def drop(key: str) -> Change:
    return lambda document: document.pop(key)


def put(key: str, value: object) -> Change:
    return lambda document: document.update({key: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("plan"), "plan: Field required"),
        (drop("prepared"), "prepared: Field required"),
        (put("heldout", 3), "unknown key heldout"),
        (put("round", "two"), "round: "),
        (put("stop", "kept"), "stop: "),
        (put("history", [{}]), "history.0."),
        (
            put("plan", {**PLAN.model_dump(), "temperature": "hot"}),
            "plan.temperature: ",
        ),
        (put("plan", {**PLAN.model_dump(), "top_k": 5}), "unknown key plan.top_k"),
        (put("selections", "select/1"), "selections: "),
        (put("alpha_account", 0.05), "alpha_account: "),
    ],
)
def test_a_stored_state_that_is_refused_is_told_by_receipt_and_key(
    context: Context, change: Change, words: str
) -> None:
    start = started(context, recipe_document(), change)
    message = refusal_of(context, start)
    assert message.startswith(
        f"{start.ref}: its state was stored by another version of Ratchet"
    )
    assert words in message
    assert "begin a new run" in message


def verbs_over(start: Receipt, folder: Path) -> list[list[str]]:
    (folder / "r.yaml").write_text(TINY)
    recipe = str(folder / "r.yaml")
    run = "crafted-run"
    return [
        ["runs"],
        ["runs", "--json"],
        ["status", run],
        ["diff", run, run],
        ["explain", "a row", run],
        ["samples", run],
        ["report", run, "-o", str(folder / "page.html")],
        ["review", "export", run, "-o", str(folder / "rows.jsonl")],
        ["verify", run],
        ["verify", start.ref],
        ["show", start.ref],
        ["show", start.ref, "--json"],
        ["export", run, "-o", str(folder / "run.tar")],
        ["gc"],
        ["estimate", recipe, "--like", run],
        ["releases"],
        ["approve", run],
    ]


@pytest.mark.parametrize("is_state", [False, True], ids=["recipe", "state"])
def test_no_verb_ends_with_a_traceback_over_a_run_of_another_version(
    context: Context, is_state: bool, tmp_path: Path
) -> None:
    document = recipe_document()
    if not is_state:
        set_key(document, "data.human", [])
    start = started(
        context, document, put("heldout", 3) if is_state else lambda document: None
    )
    for verb in verbs_over(start, tmp_path):
        done = CliRunner().invoke(app, [*verb, "--store", context.store.root])
        assert done.exception is None or isinstance(done.exception, SystemExit), (
            verb,
            done.exception,
        )
        assert done.exit_code in (0, 1, 2, 3), (verb, done.output)
    if is_state:
        done = CliRunner().invoke(
            app, ["show", start.ref, "--store", context.store.root]
        )
        assert (done.exit_code, "unknown key heldout" in done.output) == (2, True)


@pytest.mark.process
def test_a_run_that_cannot_be_gone_on_from_is_told_before_any_task(
    context: Context, tmp_path: Path
) -> None:
    document = recipe_document()
    set_key(document, "data.human", [])
    uri = receipt_uri(context, started(context, document))
    (tmp_path / "r.yaml").write_text(TINY)
    known = list(context.store.list(""))
    told = ("--store", context.store.root, "--resume-from", uri)
    done = cli(tmp_path, "run", "r.yaml", *told, columns=400)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(
        f"error: run {RUN}: this version of Ratchet does not take"
    )
    assert "unknown key data.human" in done.stderr
    assert done.stderr.count("\n") == 1
    # No task has begun, and no run was named: only whether the store can be used was looked at.
    added = set(context.store.list("")) - set(known)
    assert added <= {keys.probe_key()}


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": "a", "verdict": "right"}',
        b'{"id": 3}',
        b'{"right": true}',
        b"[]",
        b"no JSON",
    ],
)
def test_verdicts_of_another_version_are_named(context: Context, line: bytes) -> None:
    digest = hashlib.sha256(line).hexdigest()
    context.store.put_bytes(keys.object_key(digest), line)
    batch = ReviewBatch(
        run_id=RUN, round=1, number=1, sha256=digest, verdicts=1, by="me"
    )
    with pytest.raises(
        Corrupt, match=f"{digest}: verdicts of another version.*import them anew"
    ):
        verdicts_in(context, [batch])
