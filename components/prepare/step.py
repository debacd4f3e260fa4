"""prepare: the resolved recipe, the base checkpoint, disjoint data splits and the first state of a
campaign."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.canonical import canonical_json, derived_seed
from components.contracts import artifacts
from components.contracts.recipe import DataSource, Recipe
from components.contracts.recipe_file import parse_recipe, set_key
from components.contracts.rows import Dropped, Prompt, TrainingRow, read_rows, write_rows
from components.contracts.state import Plan, State, base_plan
from components.contracts.summaries import PrepareSummary, SelectSummary, StartSummary
from components.errors import UserError
from components.prepare.examples import Example
from components.prepare.readers import read_source
from components.prepare.splits import CLAIM_ORDER, Target, make_splits
from components.prepare.tasks import make_examples
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import (
    Attempt,
    Receipt,
    Task,
    attempting,
    commit,
    fetch,
    read_summary,
    ref_of_uri,
)
from components.storage import keys
from components.storage.sources import local_folder, local_path

if TYPE_CHECKING:
    from components.modeling.encoding import Codec

MUST_MATCH_ON_RESUME = ("model", "data", "seed")
"""Parts of the recipe that base checkpoint and splits are made from."""


@dataclass(frozen=True)
class PrepareInputs:
    """What a person gives to a run."""

    recipe: dict[str, Any]
    """The recipe as a plain mapping; whole numbers may come as floats (pipeline parameters do)."""
    overrides: dict[str, Any]
    """Dotted key → value, set in the recipe before it is checked: the parameters of the UI."""
    resume_from: str
    """URI of the receipt of `decide` (or the start) whose campaign this run continues; empty: a new
    campaign."""
    job_id: str
    """The pipeline job that carries this run out; empty outside a cluster."""


def run(inputs: PrepareInputs, context: Context) -> Receipt:
    """Prepare a campaign, or the continuation of one.

    Returns the `start` receipt. Files: recipe.json, state.json. Summary: counts per split, rejected
    rows per reason, parameters and digest of the base model, `fresh` (False when resumed), ref of
    the first mix. The `prepare` receipt that its state names has base/…, splits/*.jsonl and
    rejected.jsonl; the first mix has the files of a round's mix, with labelled rows alone. Raises
    UserError for a recipe, file, model or state that cannot be used.
    """
    recipe = resolve_recipe(inputs)
    campaign = _resumed(context, inputs.resume_from, recipe) if inputs.resume_from else None
    document = recipe.model_dump(mode="json")
    if inputs.job_id:
        context.store.put_bytes(
            keys.job_key(inputs.job_id), canonical_json({"run_id": recipe.run_id})
        )
    context.store.put_bytes(keys.run_key(recipe.run_id, "recipe.json"), canonical_json(document))
    with attempting(
        context, Task(run_id=recipe.run_id, name="prepare", round=0), "prepare"
    ) as attempt:
        prepared = campaign.prepared if campaign else _data_and_base(context, attempt, recipe)
        _check_fit(context, recipe, prepared)
        state = _continued(campaign, recipe) if campaign else _first_state(recipe, prepared)
        mix = _first_mix(context, attempt, recipe, prepared)
        about = read_summary(prepared, PrepareSummary)

        def work(folder: Path) -> StartSummary:
            (folder / artifacts.RECIPE).write_bytes(canonical_json(document))
            (folder / artifacts.STATE).write_bytes(canonical_json(state.model_dump(mode="json")))
            return StartSummary(
                counts=about.counts,
                rejected=about.rejected,
                parameters=about.parameters,
                base_digest=about.base_digest,
                dtype=about.dtype,
                positions=about.positions,
                fresh=state.round is None,
                first_mix=mix.ref,
            )

        return commit(
            context,
            attempt,
            "start",
            config={"recipe": document},
            inputs={
                "prepare": prepared,
                "mix": mix,
                **({"resume": campaign.state_receipt} if campaign else {}),
            },
            seed=recipe.seed,
            work=work,
        )


def is_fresh(start: Receipt) -> bool:
    """Return True if the campaign of a start receipt begins with round 0."""
    return read_summary(start, StartSummary).fresh


def _data_and_base(context: Context, attempt: Attempt, recipe: Recipe) -> Receipt:
    """The prepare receipt. It depends on the parts of the recipe named here and on nothing else of
    it."""
    context.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sources-", dir=context.scratch) as folder:
        downloads = Path(folder)
        files = [
            local_path(source.uri, context.environment, downloads) for source in recipe.data.sources
        ]
        return commit(
            context,
            attempt,
            "prepare",
            config={
                "model": recipe.model.model_dump(mode="json", exclude={"system_prompt"}),
                "data": recipe.data.model_dump(mode="json"),
                "bases": _num_bases(recipe),
                # The recipe names files; their bytes decide. An edited file is new work.
                "sources": [_sha256(path) for path in files],
                "model_digest": _model_digest(recipe, context),
            },
            inputs={},
            seed=recipe.seed,
            work=lambda folder: _prepare(context, recipe, files, folder, downloads),
        )


def _first_mix(context: Context, attempt: Attempt, recipe: Recipe, prepared: Receipt) -> Receipt:
    """The mix of the first training: all labelled rows, no samples."""

    def work(folder: Path) -> SelectSummary:
        labelled = fetch(context, prepared, artifacts.split_file("train"))
        shutil.copyfile(labelled, folder / artifacts.MIX)
        (folder / artifacts.ACCEPTED).touch()
        (folder / artifacts.DROPPED).touch()
        num_rows = read_summary(prepared, PrepareSummary).counts["train"]
        return SelectSummary(round=0, labelled_rows=num_rows)

    inputs = {"prepare": prepared}
    return commit(context, attempt, "mix", config={}, inputs=inputs, seed=recipe.seed, work=work)


def _num_bases(recipe: Recipe) -> int:
    """Peers of a scratch model have initial weights of their own; other peers share the base."""
    return recipe.train.num_peers if recipe.model.source == "scratch" else 1


def resolve_recipe(inputs: PrepareInputs) -> Recipe:
    """The recipe with the overrides in it, checked. Raises UserError naming the key."""
    document = copy.deepcopy(inputs.recipe)
    for path, value in inputs.overrides.items():
        set_key(document, path, value)
    recipe = parse_recipe(document)
    for source in recipe.data.sources:
        if source.verifier == "regex" and source.split not in ("validation", "test", "unlabelled"):
            raise UserError(
                f"data.sources {source.uri}: with verifier regex the completion is a pattern, which no model should "
                "learn to say; give it split validation, test or unlabelled"
            )
    return recipe


def first_plan(recipe: Recipe) -> Plan:
    """The plan of round 0; `decide` makes the plans of later rounds."""
    ladder = recipe.data.ladder
    stage = recipe.train.first
    if stage.steps == 0 and recipe.train.pretrain is not None:
        stage = recipe.train.pretrain
    level = ladder.labelled[1] if ladder is not None else 0
    first = {"learning_rate": stage.learning_rate, "steps": stage.steps, "level": level}
    return base_plan(recipe).model_copy(update=first)


def _prepare(
    context: Context, recipe: Recipe, files: list[Path], folder: Path, downloads: Path
) -> PrepareSummary:
    splits = make_splits(_examples(recipe, files), recipe.data.fractions, recipe.seed)
    (folder / "splits").mkdir()
    for name in CLAIM_ORDER:
        write_rows(folder / artifacts.split_file(name), getattr(splits, name))
    write_rows(folder / artifacts.REJECTED, splits.rejected)
    _note_rejected(context, splits.rejected_counts)
    # Last, as it is the slow part and wrong data should show at once.
    from components.modeling.base import materialise_base

    base = materialise_base(
        recipe.model, recipe.seed, folder / "base", context.environment, downloads
    )
    for peer in range(1, _num_bases(recipe)):
        seed = derived_seed(recipe.seed, "base", peer) % 2**31
        materialise_base(
            recipe.model, seed, folder / f"base-{peer}", context.environment, downloads
        )
    return PrepareSummary(
        counts=splits.counts,
        rejected=splits.rejected_counts,
        parameters=base["parameters"],
        base_digest=base["digest"],
        dtype=base["dtype"],
        positions=base["positions"],
    )


def _check_fit(context: Context, recipe: Recipe, prepared: Receipt) -> None:
    """Raise UserError if the base model's template or positions do not suit what the data and the
    recipe ask of it. No weight is read."""
    positions = prepared.summary.get("positions")
    if recipe.model.source == "scratch" and not recipe.model.system_prompt and positions is None:
        return
    from components.modeling.encoding import load_codec

    context.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="codec-", dir=context.scratch) as folder:
        for name in prepared.objects:
            if name.startswith("base/") and not name.endswith(".safetensors"):
                target = Path(folder) / name.removeprefix("base/")
                shutil.copyfile(fetch(context, prepared, name), target)
        codec = load_codec(Path(folder), recipe.model.system_prompt)
    _check_rows(context, recipe, prepared, codec)
    longest = _longest_prompt(context, prepared, codec, counted=positions is not None)
    room = recipe.generate.max_new_tokens
    if positions is not None and longest + room > positions:
        raise UserError(
            f"generate.max_new_tokens: the longest prompt has {longest} tokens, and with {room} more it does not fit "
            f"into the {positions} positions of model {recipe.model.source}: lower it, or leave long prompts out"
        )


def _check_rows(context: Context, recipe: Recipe, prepared: Receipt, codec: Codec) -> None:
    for split in ("train", "dev", "retention"):
        for row in read_rows(fetch(context, prepared, f"splits/{split}.jsonl"), TrainingRow):
            if row.conversation is not None:
                with _named(f"{row.provenance.get('uri')}, {row.provenance.get('place')}"):
                    codec.encode(row, recipe.train.turns)


def _longest_prompt(context: Context, prepared: Receipt, codec: Codec, *, counted: bool) -> int:
    """Tokens of the longest prompt that is asked, where they are `counted`; conversations are
    encoded in any case."""
    longest = 0
    for split in ("unlabelled", "validation", "test", "vault", "audit"):
        for prompt in read_rows(fetch(context, prepared, f"splits/{split}.jsonl"), Prompt):
            if counted or prompt.conversation is not None:
                with _named(f"prompt {prompt.id} of split {split}"):
                    longest = max(longest, len(codec.prompt_ids(prompt.asked)))
    return longest


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    """Say which row a model's template does not suit."""
    try:
        yield
    except UserError as error:
        raise UserError(f"data: {place}: {error}") from None


def _examples(recipe: Recipe, files: list[Path]) -> Iterator[tuple[Target, Example] | Dropped]:
    for source, path in zip(recipe.data.sources, files, strict=True):
        yield from _assigned(source, path)
    for place, task in enumerate(recipe.data.tasks):
        yield from make_examples(task, derived_seed("source", recipe.seed, place))


def _assigned(source: DataSource, path: Path) -> Iterator[tuple[Target, Example] | Dropped]:
    for item in read_source(path, source):
        yield item if isinstance(item, Dropped) else (source.split, item)


def _note_rejected(context: Context, rejected: dict[str, int]) -> None:
    if rejected:
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items())
        context.progress.note(f"rejected rows, kept in {artifacts.REJECTED}: {reasons}")


def _resumed(context: Context, uri: str, recipe: Recipe) -> Campaign:
    """The campaign to go on with, after checking that it was made from the same model, data and
    seed."""
    ref = ref_of_uri(context, uri)
    if context.store.size(keys.receipt_key(*ref.split("/", 1))) is None:
        raise UserError(
            f"resume_from {uri}: no such receipt; copy the state URI that the earlier run's last decide task shows"
        )
    campaign = load_campaign(context, uri)
    before, now = campaign.recipe.model_dump(mode="json"), recipe.model_dump(mode="json")
    for section in MUST_MATCH_ON_RESUME:
        if before[section] != now[section]:
            what = _difference(before[section], now[section])
            raise UserError(
                f"resume_from {uri}: the recipe's `{section}` differs from that run's ({what}), and its base model and "
                "splits come from it; restore it, or start a new run without resume_from"
            )
    return campaign


def _difference(before: Any, now: Any, place: str = "") -> str:
    """The first place where two JSON values differ, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                return _difference(before.get(name), now.get(name), f"{place}.{name}".lstrip("."))
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            if old != new:
                return _difference(old, new, f"{place}.{index}".lstrip("."))
    return f"{place + ' ' if place else ''}was {before!r:.80}, is {now!r:.80}"


def _first_state(recipe: Recipe, prepared: Receipt) -> State:
    return State(run_id=recipe.run_id, prepared=prepared.ref, plan=first_plan(recipe))


def _continued(campaign: Campaign, recipe: Recipe) -> State:
    """The old state, ready to go on."""
    return campaign.state.model_copy(
        update={
            "run_id": recipe.run_id,
            "start": None,
            "go": True,
            "stop": None,
            "rounds_without_gain": 0,
            "plan": _resumed_plan(campaign, recipe),
        }
    )


def _resumed_plan(campaign: Campaign, recipe: Recipe) -> Plan:
    """The plan goes on as reflection left it, but for the settings that the new recipe sets to
    another value."""
    if campaign.state.round is None:
        return first_plan(recipe)
    before, after = base_plan(campaign.recipe), base_plan(recipe)
    changed = {name: value for name, value in after if value != getattr(before, name)}
    return campaign.state.plan.model_copy(update=changed)


def _model_digest(recipe: Recipe, context: Context) -> str:
    """Digest of a base model in local files, which can be edited; empty for one whose URI is taken
    at its word."""
    source = recipe.model.source
    if not source.startswith(("file://", "package://")):
        return ""
    if source.endswith(".gguf"):
        return _sha256(local_path(source, context.environment, context.scratch))
    folder = local_folder(source, context.environment, context.scratch)
    parts = [f"{path.name} {_sha256(path)}" for path in sorted(folder.iterdir()) if path.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
