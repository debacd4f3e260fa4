"""prepare: resolved recipe, base checkpoint, disjoint data splits, first state of a campaign."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from components.canonical import JsonObject, canonical_json, derived_seed
from components.contracts import artifacts
from components.contracts.recipe import DataSource, Recipe
from components.contracts.recipe.parameters import parameter_values
from components.contracts.recipe.pipeline_text import recipe_document
from components.contracts.recipe_file import parse_recipe, set_key
from components.contracts.rows import Dropped, Prompt, read_rows, write_rows
from components.contracts.state import State
from components.contracts.summaries import PrepareSummary, SelectSummary, StartSummary
from components.contracts.verifier_names import own_name
from components.errors import Missing, UserError
from components.prepare.checker_trial import fetch_bundle, try_checker
from components.prepare.earlier_prompts import earlier_prompts
from components.prepare.examples import Example
from components.prepare.first_state import (
    continued_state,
    first_state,
    resumed_campaign,
)
from components.prepare.model_fit import check_fit, check_teacher_fit
from components.prepare.outlook import (
    Outlook,
    check_dev,
    check_references,
    check_texts,
    outlook_of,
)
from components.prepare.readers import read_source
from components.prepare.scratch_text import scratch_model, training_texts
from components.prepare.splits import CLAIM_ORDER, Assigned, make_splits
from components.prepare.tasks import make_examples
from components.prepare.teacher import about_teacher, find_teacher
from components.prepare.text_blocks import in_blocks
from components.runtime.attempts import Attempt, Task, attempting
from components.runtime.campaign import checkpoint_name
from components.runtime.context import Context
from components.runtime.ledger import (
    RELEASE_SCHEME,
    fetch_release,
    receipt_of,
    release_in_force,
)
from components.runtime.receipts import (
    Receipt,
    commit,
    fetch,
    read_receipt,
    read_summary,
)
from components.sandbox.isolation import has_landlock
from components.storage import keys
from components.storage.objects import hold, is_collected_from
from components.storage.sources import content_digest, local_path, model_version


@dataclass(frozen=True)
class PrepareInputs:
    """Everything that a person gives to a run."""

    recipe: JsonObject
    """The recipe as a plain mapping; whole numbers may come as floats (pipeline parameters do)."""
    overrides: JsonObject
    """Dotted key → value, set in the recipe before it is checked: the parameters of the UI."""
    resume_from: str
    """URI of the receipt of `decide` (or the start) whose campaign this run continues; empty: a new
    campaign."""
    job_id: str
    """The pipeline job that carries this run out; empty outside a cluster."""
    defaults: JsonObject = field(default_factory=dict)
    """Dotted key → value that the pipeline was compiled with; empty: each override counts. What
    still has this value was not changed by a person."""


def run(inputs: PrepareInputs, context: Context) -> Receipt:
    """Prepare a campaign, or the continuation of one.

    Returns the `start` receipt. Files: recipe.json, state.json. Summary: counts per split, rejected
    rows per reason, parameters and digest of the base model, the smallest gain that the validation
    prompts can prove, `fresh` (False when resumed), `supervised` (False without round 0), refs of
    the first mix and of the base, the teacher. The `prepare` receipt that its state names has
    model/… (the base), splits/*.jsonl and rejected.jsonl; the first mix has the files of a round's
    mix, with labelled rows alone; the `teacher` receipt has model/… of the teacher.

    Raises:
        UserError: A recipe, file, model or state cannot be used, or no round could promote.
    """
    recipe = resolve_recipe(inputs)
    campaign = None
    if inputs.resume_from:
        campaign = resumed_campaign(context, inputs.resume_from, recipe)
    _publish_run(context, recipe, inputs.job_id)
    task = Task(run_id=recipe.run_id, name="prepare", round=0)
    with attempting(context, task, "prepare") as attempt:
        if campaign is None:
            prepared = _data_and_base(context, attempt, recipe)
            state = first_state(recipe, prepared)
        else:
            prepared = campaign.prepared
            state = continued_state(campaign, recipe)
        check_fit(context, recipe, prepared)
        outlook = _outlook(context, recipe, prepared, state)
        receipts = {"prepare": prepared}
        teacher = find_teacher(context, attempt, recipe)
        if teacher is not None:
            check_teacher_fit(context, recipe, prepared, teacher)
            receipts["teacher"] = teacher
        receipts["mix"] = _first_mix(context, attempt, recipe, prepared)
        if campaign is not None:
            receipts["resume"] = campaign.state_receipt
        start = _commit_start(context, attempt, recipe, state, outlook, receipts)
        if campaign is not None:
            _hold_campaign(context, state)
        return start


def _hold_campaign(context: Context, state: State) -> None:
    """Hold what `gc` may be about to delete of the campaign that this run goes on with."""
    if not is_collected_from(context.store):
        return
    refs: list[tuple[str, int]] = []
    for name in dict.fromkeys(state.receipts):
        # Of an earlier round that nobody needs, somebody may have deleted it.
        with suppress(Missing):
            objects = read_receipt(context, name).objects.values()
            refs += [(ref.sha256, ref.size) for ref in objects]
    hold(context.store, context.cache, refs)


def _outlook(
    context: Context, recipe: Recipe, prepared: Receipt, state: State
) -> Outlook | None:
    """Return what the data can prove, told as a note; None for a campaign that goes on."""
    counts = read_summary(prepared, PrepareSummary).counts
    rows = [
        f"{name} {counts[name]}" for name in reversed(CLAIM_ORDER) if counts.get(name)
    ]
    context.progress.note(f"rows: {', '.join(rows)}")
    # Also of a campaign that was prepared before there were such prompts.
    if not counts.get(artifacts.DEV_PROMPTS):
        check_dev(recipe, [])
        context.progress.note(
            "no dev prompts: the plan of a round is made without answers, as validation only "
            "decides; give a source split: dev, or raise data.fractions.dev"
        )
    unlabelled = fetch(context, prepared, artifacts.split_file("unlabelled"))
    check_texts(recipe, read_rows(unlabelled, Prompt))
    # A campaign that goes on has an account of alpha, and data that it promoted by.
    if state.champion is not None:
        return None
    path = fetch(context, prepared, artifacts.split_file("validation"))
    outlook = outlook_of(recipe, list(read_rows(path, Prompt)), counts["unlabelled"])
    context.progress.note(outlook.in_words)
    return outlook


def _publish_run(context: Context, recipe: Recipe, job_id: str) -> None:
    """Store the resolved recipe under the run's id, and the id under that of the pipeline job."""
    # For people and the report, before the work: a run that fails later is listed all the same.
    if job_id:
        run_id = canonical_json({"run_id": recipe.run_id})
        context.store.put_bytes(keys.job_key(job_id), run_id)
    document = canonical_json(recipe.model_dump(mode="json"))
    context.store.put_bytes(keys.run_key(recipe.run_id, artifacts.RECIPE), document)


def _commit_start(
    context: Context,
    attempt: Attempt,
    recipe: Recipe,
    state: State,
    outlook: Outlook | None,
    receipts: dict[str, Receipt],
) -> Receipt:
    document = recipe.model_dump(mode="json")
    prepared = read_summary(receipts["prepare"], PrepareSummary)
    first_mix = receipts["mix"].ref

    def work(folder: Path) -> StartSummary:
        (folder / artifacts.RECIPE).write_bytes(canonical_json(document))
        (folder / artifacts.STATE).write_bytes(
            canonical_json(state.model_dump(mode="json"))
        )
        return StartSummary(
            counts=prepared.counts,
            rejected=prepared.rejected,
            parameters=prepared.parameters,
            base_digest=prepared.base_digest,
            dtype=prepared.dtype,
            positions=prepared.positions,
            base_release=prepared.base_release,
            smallest_gain=outlook.smallest_gain if outlook is not None else None,
            supervised=state.round is None,
            first_mix=first_mix,
            base=state.prepared,
            teacher=about_teacher(receipts.get("teacher")),
        )

    return commit(
        context,
        attempt,
        "start",
        config={"recipe": document},
        inputs=receipts,
        seed=recipe.seed,
        work=work,
    )


def is_supervised(start: Receipt) -> bool:
    """Return True if the run of a start receipt carries out round 0."""
    return read_summary(start, StartSummary).supervised


def _data_and_base(context: Context, attempt: Attempt, recipe: Recipe) -> Receipt:
    """Return the prepare receipt.

    It depends on the parts of the recipe that `config` names and on nothing else of it.
    """
    context.scratch.mkdir(parents=True, exist_ok=True)
    release = None
    if recipe.model.source.startswith(RELEASE_SCHEME):
        line = release_in_force(context, recipe.model.source)
        context.progress.note(
            f"base: release {line.number} of {line.name}, {line.version}"
        )
        release = receipt_of(context, line)
    with tempfile.TemporaryDirectory(
        prefix="sources-", dir=context.scratch
    ) as downloads_name:
        downloads = Path(downloads_name)
        files = [
            local_path(source.uri, context.environment, downloads, or_folder=True)
            for source in recipe.data.sources
        ]
        config = {
            # The system prompt is read when rows are encoded; the checkpoint does not hold it.
            "model": recipe.model.model_dump(mode="json", exclude={"system_prompt"}),
            "data": recipe.data.model_dump(mode="json"),
            "contamination": recipe.select.contamination,
            "bases": _num_bases(recipe),
            # The recipe names files; their bytes decide. An edited file is new work.
            "sources": [content_digest(path) for path in files],
            "model_digest": _model_digest(recipe, context)
            if release is None
            else release.digest,
        }
        return commit(
            context,
            attempt,
            "prepare",
            config=config,
            inputs={},
            seed=recipe.seed,
            work=lambda folder: _prepare(
                context, recipe, files, folder, downloads, release
            ),
        )


def _first_mix(
    context: Context, attempt: Attempt, recipe: Recipe, prepared: Receipt
) -> Receipt:
    """Return the mix of the first training: all labelled rows, no samples."""

    def work(folder: Path) -> SelectSummary:
        labelled = fetch(context, prepared, artifacts.split_file("train"))
        shutil.copyfile(labelled, folder / artifacts.MIX)
        # Empty, so that later rounds read the first mix as they read every other.
        (folder / artifacts.ACCEPTED).touch()
        (folder / artifacts.DROPPED).touch()
        num_rows = read_summary(prepared, PrepareSummary).counts["train"]
        return SelectSummary(round=0, labelled_rows=num_rows)

    inputs = {"prepare": prepared}
    return commit(
        context, attempt, "mix", config={}, inputs=inputs, seed=recipe.seed, work=work
    )


def _num_bases(recipe: Recipe) -> int:
    """Return the number of base checkpoints."""
    # Peers of a scratch model have initial weights of their own; other peers share the base.
    return recipe.train.num_peers if recipe.model.source == "scratch" else 1


def resolve_recipe(inputs: PrepareInputs) -> Recipe:
    """Return the recipe with the overrides in it, checked.

    Raises UserError naming the key; also where recipe and override were changed to two values.
    """
    document = recipe_document(inputs.recipe)
    in_recipe = parameter_values(parse_recipe(document)) if inputs.defaults else {}
    for key, value in inputs.overrides.items():
        if key in inputs.defaults:
            # The form sends all fields. The old default of one must not overrule an edited recipe.
            default = inputs.defaults[key]
            if value == default:
                continue
            if in_recipe[key] not in (default, value):
                raise UserError(
                    f"{key} is {in_recipe[key]} in the recipe and {value} in its own field of the "
                    f"run, and both were changed (from {default}); change one of them"
                )
        set_key(document, key, value)
    recipe = parse_recipe(document)
    for source in recipe.data.sources:
        is_taught = source.split not in ("validation", "test", "unlabelled")
        if source.verifier == "regex" and is_taught:
            raise UserError(
                f"data.sources {source.uri}: with verifier regex the completion is a pattern, "
                "which no model should learn to say; give it split validation, test or unlabelled"
            )
    return recipe


def _prepare(
    context: Context,
    recipe: Recipe,
    files: list[Path],
    folder: Path,
    downloads: Path,
    release: Receipt | None,
) -> PrepareSummary:
    if recipe.data.own_code:
        fetch_bundle(context, recipe.data.checker_code, folder / artifacts.CHECKER)
        if not has_landlock():
            context.progress.note(
                "your own verifier can read the environment of this step, with its credentials: "
                "this kernel has no Landlock"
            )
        for source, path in zip(recipe.data.sources, files, strict=True):
            try_checker(source, _assigned(source, path, recipe.data.checker_code))
    splits = make_splits(
        in_blocks(_examples(recipe, files), recipe.data, recipe.seed),
        recipe.data.fractions,
        recipe.seed,
        recipe.select.contamination,
        earlier_prompts(context, release),
        recipe.may_be_empty,
    )
    (folder / "splits").mkdir()
    for name in CLAIM_ORDER:
        write_rows(folder / artifacts.split_file(name), getattr(splits, name))
    write_rows(folder / artifacts.REJECTED, splits.rejected)
    _note_rejected(context, splits.rejected_counts)
    check_texts(recipe, splits.unlabelled)
    measured = {
        "validation": splits.validation,
        "test": splits.test,
        "vault": splits.vault,
    }
    check_references(recipe, measured)
    outlook_of(recipe, splits.validation, len(splits.unlabelled))
    check_dev(recipe, splits.dev_prompts)
    model = scratch_model(recipe.model, splits)
    texts = training_texts(splits) if model.source == "scratch" else []
    # Last, as it is the slow part and wrong data should show at once.
    from components.modeling.base import materialise_base

    if release is not None:
        # Deleted with the downloads.
        model_folder = fetch_release(context, release, downloads)
        model = model.model_copy(update={"source": model_folder.as_uri()})
    base = materialise_base(
        model,
        recipe.seed,
        folder / checkpoint_name(0),
        context.environment,
        downloads,
        texts,
    )
    for peer in range(1, _num_bases(recipe)):
        seed = derived_seed(recipe.seed, "base", peer) % 2**31
        materialise_base(
            model,
            seed,
            folder / checkpoint_name(peer),
            context.environment,
            downloads,
            texts,
        )
    return PrepareSummary(
        counts=splits.counts,
        rejected=splits.rejected_counts,
        parameters=base["parameters"],
        base_digest=base["digest"],
        dtype=base["dtype"],
        positions=base["positions"],
        base_release=release.ref if release is not None else "",
    )


def _examples(recipe: Recipe, files: list[Path]) -> Iterator[Assigned | Dropped]:
    for source, path in zip(recipe.data.sources, files, strict=True):
        yield from _assigned(source, path, recipe.data.checker_code)
    for index, task in enumerate(recipe.data.tasks):
        seed = derived_seed("source", recipe.seed, index)
        yield from make_examples(task, seed, recipe.data.checker_code)


def _assigned(
    source: DataSource, path: Path, code: str
) -> Iterator[Assigned | Dropped]:
    for item in read_source(path, source):
        if isinstance(item, Dropped):
            yield item
        else:
            yield source.split, _with_code(item, source, code)


def _with_code(example: Example, source: DataSource, code: str) -> Example:
    if own_name(source.verifier) is None:
        return example
    return replace(example, check=example.check.model_copy(update={"code": code}))


def _note_rejected(context: Context, rejected: dict[str, int]) -> None:
    if rejected:
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items())
        context.progress.note(f"rejected rows, kept in {artifacts.REJECTED}: {reasons}")


def _model_digest(recipe: Recipe, context: Context) -> str:
    """Return a digest of the files of the base model; empty for one of a hub, or made."""
    source = recipe.model.source
    if source == "scratch":
        return ""
    return model_version(source, context.environment, context.scratch)
