"""One process of a training, alone or one of many: prepare, resume or start, train, export."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from components.canonical import derived_seed
from components.contracts import artifacts
from components.contracts.rows import write_rows
from components.contracts.summaries.train import TrainingOutcome
from components.errors import RatchetError
from components.runtime.context import Context, make_context
from components.train.process import deepspeed_engine as ds
from components.train.process import engine_state
from components.train.process.augmentation import (
    Augmenter,
    longest_copy,
    make_augmenter,
)
from components.train.process.checkpoints import Checkpoints
from components.train.process.choice import objective_of, reference_of
from components.train.process.depth import (
    Sources,
    in_words,
    planned_sources,
    starting_model,
)
from components.train.process.export import Exported, export
from components.train.process.job import Costs, Job, Measured
from components.train.process.loop import Loop
from components.train.process.material import Material, load_material
from components.train.process.micro_batches import Kind, MicroBatches
from components.train.process.objective import Objective
from components.train.process.packing import keeps_rows_apart
from components.train.process.preflight import (
    announce,
    check_disk,
    check_masks,
    check_rows,
    end_of_text_share,
    first_loss,
)
from components.train.process.references import Reader
from components.train.process.resuming import load_weights, put_back
from components.train.process.sizing import (
    Estimate,
    Model,
    choose,
    fixed_positions,
    model_size,
    this_machine,
)
from components.train.process.track import Track
from components.train.process.training_log import Recorder

NUM_NAMES_SHOWN = 3
"""Ids of rows that a note names."""
DROPOUTS = (
    "attention_dropout",
    "hidden_dropout",
    "dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)
"""Names of dropout in the configs of the architectures."""


@dataclass(frozen=True)
class Run:
    """A training whose rows, model and layout have passed the checks."""

    job: Job
    context: Context
    device: torch.device
    material: Material
    objective: Objective
    estimate: Estimate
    """The layout, and the memory that it is expected to need."""
    num_parameters: int
    kind: Kind
    """How rows become sequences."""
    sources: Sources | None
    """The order of the model's layers; None: as it is loaded."""


def train(job: Job, context: Context) -> None:
    """Train one candidate, from the newest usable checkpoint of the same work.

    Process 0 writes `model/`, `adapter/` (LoRA), `log.jsonl` and `measured.json` into job.output.
    Raises UserError for rows or a model that cannot be trained, OutOfMemory, Transient after
    SIGTERM.
    """
    begun = context.clock()
    torch.set_num_threads(job.threads)
    device = ds.join_processes()
    try:
        run = prepare_run(job, context, device)
        zero_stage = run.estimate.layout.zero_stage
        with closing(
            Checkpoints(context, job.key, zero_stage=zero_stage)
        ) as checkpoints:
            loop = resume_or_start(run, checkpoints)
            started = context.clock()
            with closing(loop.recorder) if loop.recorder is not None else nullcontext():
                loop.run()
            finished = context.clock()
            costs = Costs(
                compute_seconds=finished - started, startup_seconds=started - begun
            )
            _export(run, loop, costs)
            dist.barrier()
    finally:
        # Where others wait for this process, its end is what tells them.
        if dist.get_world_size() == 1:
            ds.leave_processes()


def prepare_run(job: Job, context: Context, device: torch.device) -> Run:
    """Load rows and model, check them, and choose the layout. Raises UserError."""
    # Every process begins with the same new weights of an adapter.
    torch.manual_seed(job.seed)
    material = load_material(job)
    if material.num_unused > 0:
        _note(
            context,
            f"{material.num_unused} of {material.num_rows} rows belong to no stage of this "
            "training",
        )
    _note_long_rows(job, context, material)
    _note_stages_without_dev_rows(context, material)
    _note_stages_without_noise(context, material)
    _, last_rows = material.stages[-1]
    sources = planned_sources(job, last_rows.rows, device)
    if sources is not None:
        _note(context, in_words(sources))
    model = build_model(job, sources)
    size = model_size(model)
    estimate = _preflight(job, context, material, model, size)
    kind = material.kind
    if job.section.packing and keeps_rows_apart(model):
        kind = "packed"
    elif job.section.packing:
        _note(
            context,
            f"train.packing is not used: {type(model).__name__} would let packed rows see each "
            "other",
        )
    return Run(
        job=job,
        context=context,
        device=device,
        material=material,
        objective=objective_of(job, model, kind),
        estimate=estimate,
        num_parameters=size.num_parameters,
        kind=kind,
        sources=sources,
    )


def _note_long_rows(job: Job, context: Context, material: Material) -> None:
    """Say which rows are longer than the recipe allows, and what became of them."""
    subjects = {f"stage {stage.name}": rows.too_long for stage, rows in material.stages}
    for (stage, _), too_long in zip(
        material.stages, material.dev_too_long, strict=True
    ):
        named = f" of stage {stage.name}" if len(material.stages) > 1 else ""
        subjects[f"the dev split{named}"] = too_long
    fate = "cut" if job.section.too_long == "cut" else "left out"
    for subject, too_long in subjects.items():
        if not too_long.names:
            continue
        shown = ", ".join(too_long.names[:NUM_NAMES_SHOWN])
        more = ", …" if len(too_long.names) > NUM_NAMES_SHOWN else ""
        _note(
            context,
            f"{subject}: {fate}, since longer than train.max_length {job.section.max_length}: "
            f"{len(too_long.names)} (longest {too_long.longest} tokens): {shown}{more}",
        )


def _note_stages_without_dev_rows(context: Context, material: Material) -> None:
    """Say which stage nothing can stop early, though there is a dev split."""
    if not any(material.dev_rows) and not material.prompts:
        return
    for (stage, _), dev_rows in zip(material.stages, material.dev_rows, strict=True):
        if not dev_rows:
            kind = "raw text" if stage.name == "pretrain" else "rows with a prompt"
            _note(
                context,
                f"stage {stage.name}: the dev split has no {kind}, so it takes all of its steps",
            )


def _note_stages_without_noise(context: Context, material: Material) -> None:
    """Say which stage has an augmentation that can change no word of its rows."""
    for stage, stage_rows in material.stages:
        settings = stage.augmentation
        if settings is None or not settings.changes_words:
            continue
        if not any(row.changeable for row in stage_rows.rows):
            _note(
                context,
                f"stage {stage.name}: augmentation changes no word: the rows have no raw text, and "
                "no prompt that may be changed (augmentation.prompts)",
            )


def resume_or_start(run: Run, checkpoints: Checkpoints) -> Loop:
    """Return the loop, at the newest usable checkpoint of this work or before its first step."""
    job = run.job
    layout = run.estimate.layout
    checkpoint = checkpoints.newest()
    # The engine copies the weights as it starts: those of a checkpoint must be there before.
    if checkpoint is not None:
        load_weights(run.objective, checkpoint)
    engine = ds.start_engine(
        run.objective,
        layout,
        num_rows=job.section.batch_size,
        learning_rate=job.stages[0].learning_rate,
        weight_decay=job.weight_decay,
        beta2=job.section.beta2,
        max_gradient_norm=job.section.max_gradient_norm,
    )
    if layout.offload:
        _announce_optimizer(run.context, ds.optimizer_name(engine))
    # From here on processes draw dropout and noise of their own.
    torch.manual_seed(job.seed + dist.get_rank())
    recorder = None
    if dist.get_rank() == 0:
        events = job.output / "tensorboard"
        recorder = Recorder(run.context, job.run_id, job.task, events)
    loop = Loop(
        job=job,
        context=run.context,
        engine=engine,
        device=run.device,
        stages=run.material.stages,
        dev_rows=run.material.dev_rows,
        micro_batches=MicroBatches(
            pad_id=run.material.codec.pad_id,
            micro_batch_size=layout.micro_batch_size,
            max_length=job.section.max_length,
            fixed_positions=fixed_positions(
                run.num_parameters, gpu=run.device.type == "cuda"
            ),
            kind=run.kind,
        ),
        reader=Reader(
            pad_id=run.material.codec.pad_id,
            batch_size=layout.micro_batch_size,
            context_length=_context_length(run),
            device=run.device,
        ),
        autocast=layout.precision == "autocast",
        checkpoints=checkpoints,
        recorder=recorder,
        track=Track(),
        augmenters=_augmenters(run),
    )
    if checkpoint is not None:
        change = put_back(loop, checkpoint)
        _note(
            run.context,
            f"going on from the checkpoint of step {loop.track.step}{change}",
        )
    loop.measure_reference(reference_of(job, run.objective, engine.module, run.kind))
    checkpoints.forget_fetched()
    return loop


def _augmenters(run: Run) -> list[Augmenter | None]:
    """Return the noise of each stage, the same in every process."""
    augmenters: list[Augmenter | None] = []
    for number, (stage, stage_rows) in enumerate(run.material.stages):
        augmenter = None
        if stage.augmentation is not None:
            seed = derived_seed(run.job.seed, number)
            augmenter = make_augmenter(
                stage.augmentation,
                stage_rows.rows,
                run.material.codec,
                run.job.section.max_length,
                seed,
            )
        augmenters.append(augmenter)
    return augmenters


def _export(run: Run, loop: Loop, costs: Costs) -> None:
    """Gather the best weights, and have process 0 export and measure them (collective)."""
    # DeepSpeed's own zero_to_fp32 and save_16bit_model write pickled files.
    share = loop.best or engine_state.own_share(loop.engine, engine_state.full_weight)
    weights = engine_state.gather_shares(loop.engine, share, run.device)
    if dist.get_rank() == 0:
        # The engine's module is the objective, which holds the model as `model`.
        plain = {name.removeprefix("model."): value for name, value in weights.items()}
        last_dev_rows = run.material.dev_rows[-1]
        exported = export(
            run.job, plain, run.material.codec, last_dev_rows, run.sources
        )
        outcome = _outcome(run, loop.track, ds.optimizer_name(loop.engine), exported)
        write_rows(run.job.output / artifacts.LOG, loop.track.log)
        measured = Measured(summary=outcome, costs=costs)
        (run.job.output / "measured.json").write_text(
            measured.model_dump_json(), encoding="utf-8"
        )


def build_model(job: Job, sources: Sources | None = None) -> PreTrainedModel:
    """Return the model to train, in train mode.

    Dropout, layers, adapters and activation checkpointing are as the job says.
    """
    settings: dict[str, float] = {}
    if job.section.dropout:
        settings = dict.fromkeys(DROPOUTS, job.section.dropout)
    model = starting_model(job, sources, settings)
    if job.lora is not None:
        from components.train.process.adapters import attach

        model = attach(model, job.lora, job.adapter)
    if job.section.activation_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise RatchetError(
                f"{type(model).__name__} cannot compute activations again: unset "
                "activation_checkpointing"
            )
        # The reentrant form needs an input with a gradient: under a frozen embedding nothing has.
        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    return model.train()


def _preflight(
    job: Job, context: Context, material: Material, model: PreTrainedModel, size: Model
) -> Estimate:
    """Check everything that can be known before the first step, and return the layout.

    Raises UserError.
    """
    for stage, stage_rows in material.stages:
        check_rows(stage.name, stage_rows, material.codec, model)
    last_stage, last_rows = material.stages[-1]
    masked_share = check_masks(last_stage.name, last_rows)
    check_disk(context, size)
    longest = 0
    max_length = job.section.max_length
    for stage, stage_rows in material.stages:
        longest = max(
            longest, longest_copy(stage.augmentation, stage_rows.rows, max_length)
        )
    machine = this_machine(job.section.num_nodes, context)
    estimate = choose(job.section, size, machine, longest)
    _, first_rows = material.stages[0]
    loss, seconds_per_token = first_loss(
        model, first_rows, material.codec, context.clock
    )
    num_tokens = 0
    for stage, stage_rows in material.stages:
        total_tokens = sum(len(row.ids) for row in stage_rows.rows)
        num_rows = stage.steps * job.section.batch_size
        num_tokens += num_rows * total_tokens // len(stage_rows.rows)
    if dist.get_rank() == 0:
        (job.output / "layout.json").write_text(estimate.chosen.model_dump_json())
        process_tokens = num_tokens // dist.get_world_size()
        announce(
            context, estimate, loss, masked_share, seconds_per_token, process_tokens
        )
    return estimate


def _context_length(run: Run) -> int:
    """Return the tokens that a row may have by the recipe and by the model's positions."""
    positions = getattr(run.objective.model.config, "max_position_embeddings", None)
    max_length = run.job.section.max_length
    return max_length if positions is None else min(max_length, int(positions))


def _announce_optimizer(context: Context, optimizer: str) -> None:
    slower = (
        ", which is slower: DeepSpeed's is not compiled here"
        if optimizer == "torch"
        else ""
    )
    _note(
        context,
        f"offload: weights and moments are updated by the AdamW of {optimizer}{slower}",
    )


def _note(context: Context, text: str) -> None:
    """Note a text once, in process 0."""
    if dist.get_rank() == 0:
        context.progress.note(text)


def _outcome(
    run: Run, track: Track, optimizer: str, exported: Exported
) -> TrainingOutcome:
    job = run.job
    last_stage = track.log[track.stage_begun :]
    losses = [entry.loss for entry in last_stage if entry.loss is not None]
    num_last = max(1, len(losses) // 10)
    last_losses = losses[-num_last:]
    dev_losses = track.stage_dev_losses
    return TrainingOutcome(
        steps=len(track.log),
        best_step=track.best_step or len(track.log),
        first_loss=losses[0],
        final_loss=sum(last_losses) / len(last_losses),
        first_dev_loss=dev_losses[0] if dev_losses else None,
        best_dev_loss=min(dev_losses) if dev_losses else None,
        final_dev_loss=dev_losses[-1] if dev_losses else None,
        stopped_early=track.stopped_early,
        tokens_trained=track.tokens,
        rows_too_long=run.material.num_too_long,
        dev_rows_too_long=len(
            {name for too_long in run.material.dev_too_long for name in too_long.names}
        ),
        skipped_steps=track.dropped,
        padding_share=1 - track.tokens / track.positions,
        num_processes=dist.get_world_size(),
        end_of_text_share=end_of_text_share(
            job.output / "model",
            job.system_prompt,
            run.material.prompts,
            job.max_new_tokens,
        ),
        interpolation_share=exported.share,
        interpolation_losses=exported.losses,
        layout=run.estimate.chosen,
        optimizer=optimizer,
    )


def main() -> None:
    """Run one process that the step started: the job's file is its argument."""
    job_file = Path(sys.argv[1])
    job = Job.model_validate_json(job_file.read_text(encoding="utf-8"))
    try:
        context = make_context(job.store, os.environ)
        context.progress.task = job.task
        train(job, context)
    except RatchetError as error:
        # torchrun reports only that a process failed; the step reads this file and raises the error
        # itself.
        failure = {"kind": type(error).__name__, "message": str(error)}
        (job.output / "failure.json").write_text(json.dumps(failure))
        raise SystemExit(error.exit_code) from None
    # All is written; taking the interpreter down while threads of gloo end has aborted finished
    # processes.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
