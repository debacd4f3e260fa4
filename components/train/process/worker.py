"""One process of a training, alone or one of many: read rows, check, train with DeepSpeed, export
the candidate."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.contracts import artifacts
from components.contracts.rows import Conversation, TrainingRow, read_rows, write_rows
from components.contracts.summaries.train import TrainingOutcome
from components.errors import Corrupt, RatchetError
from components.modeling.encoding import Codec, load_codec
from components.modeling.likelihood import CompletionLoss, EncodedRow, mean_loss
from components.modeling.load import load_model, save_checkpoint
from components.runtime.context import Context, make_context
from components.train.process import deepspeed_engine as ds
from components.train.process.checkpoints import Checkpoints, Found
from components.train.process.interpolate import choose_share
from components.train.process.job import Costs, Job, Measured, Stage
from components.train.process.loop import Loop, Track
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
from components.train.process.row_batches import TrainingSet, dev_set, training_set
from components.train.process.sizing import Estimate, Model, choose, model_size, this_machine
from components.train.process.training_log import Recorder

DROPOUTS = (
    "attention_dropout",
    "hidden_dropout",
    "dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)
"""What architectures call it."""


@dataclass(frozen=True)
class Material:
    """What a training learns from."""

    codec: Codec
    stages: list[tuple[Stage, TrainingSet]]
    dev_rows: list[EncodedRow]
    prompts: list[str | Conversation]
    """Prompts of the dev rows."""


def train(job: Job, context: Context) -> None:
    """Train one candidate and write `model/`, `adapter/` (LoRA), `log.jsonl` and `measured.json`
    into job.output, in process 0. Goes on from the newest usable checkpoint of the same work.
    Raises UserError for rows or a model that cannot be trained, OutOfMemory, Transient after
    SIGTERM."""
    begun = time.monotonic()
    torch.set_num_threads(job.threads)
    device = ds.join_processes()
    try:
        _train(job, context, device, begun)
    finally:
        # Where others wait for this process, its end is what tells them.
        if dist.get_world_size() == 1:
            ds.leave_processes()


def _train(job: Job, context: Context, device: torch.device, begun: float) -> None:
    torch.manual_seed(job.seed)
    material = _material(job, context)
    model = build_model(job)
    size = model_size(model)
    estimate = _preflight(job, context, material, model, size)
    packed = job.section.packing and keeps_rows_apart(model)
    if job.section.packing and not packed and dist.get_rank() == 0:
        context.progress.note(
            f"train.packing is not used: {type(model).__name__} would let packed rows see each other"
        )
    checkpoints = Checkpoints(context, job.key, zero_stage=estimate.layout.zero_stage)
    objective = _objective(job, model)
    found = checkpoints.newest()
    if found is not None:
        _load_weights(objective, found)
    engine = ds.start_engine(
        objective,
        estimate.layout,
        num_rows=job.section.batch_size,
        learning_rate=job.stages[0].learning_rate,
        weight_decay=job.weight_decay,
        beta2=job.section.beta2,
        max_gradient_norm=job.section.max_gradient_norm,
    )
    optimizer = ds.optimizer_name(engine)
    if estimate.layout.offload and dist.get_rank() == 0:
        slower = (
            ", which is slower: DeepSpeed's is not compiled here" if optimizer == "torch" else ""
        )
        context.progress.note(
            f"offload: weights and moments are updated by the AdamW of {optimizer}{slower}"
        )
    torch.manual_seed(job.seed + dist.get_rank())
    events = job.output / "tensorboard"
    recorder = Recorder(context, job.run_id, job.task, events) if dist.get_rank() == 0 else None
    loop = Loop(
        job=job,
        context=context,
        engine=engine,
        device=device,
        stages=material.stages,
        dev_rows=material.dev_rows,
        pad_id=material.codec.pad_id,
        packed=packed,
        autocast=estimate.layout.precision == "autocast",
        micro_batch_size=estimate.layout.micro_batch_size,
        num_parameters=size.num_parameters,
        checkpoints=checkpoints,
        recorder=recorder,
        track=Track(),
    )
    if found is not None:
        _resume(loop, found)
    checkpoints.forget_fetched()
    started = time.monotonic()
    try:
        loop.run()
    finally:
        if recorder is not None:
            recorder.close()
    compute_seconds = time.monotonic() - started
    weights = ds.gather_shares(engine, loop.best or ds.own_share(engine, ds.full_weight), device)
    if dist.get_rank() == 0:
        exported = export(
            job, {name.removeprefix("model."): value for name, value in weights.items()}, material
        )
        costs = Costs(compute_seconds=compute_seconds, startup_seconds=started - begun)
        _write(job, loop.track, estimate, optimizer, exported, material, costs)
    dist.barrier()
    checkpoints.close()


def build_model(job: Job) -> Any:
    """The model to train, in train mode: dropout, adapters and activation checkpointing as the job
    says."""
    dropout = job.section.dropout
    model = load_model(job.init, settings=dict.fromkeys(DROPOUTS, dropout) if dropout else None)
    if job.lora is not None:
        from components.train.process.adapters import attach

        model = attach(model, job.lora, job.adapter)
    if job.section.activation_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise RatchetError(
                f"{type(model).__name__} cannot compute activations again: unset activation_checkpointing"
            )
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def _material(job: Job, context: Context) -> Material:
    codec = load_codec(job.init, job.system_prompt)
    rows = list(read_rows(job.mix, TrainingRow))
    with_text = job.section.pretrain is None
    section = job.section
    stages = [
        (
            stage,
            training_set(
                rows,
                codec,
                stage.name,
                with_text=with_text,
                max_length=section.max_length,
                weighting=section.weighting,
                turns=section.turns,
            ),
        )
        for stage in job.stages
    ]
    dev_split = list(read_rows(job.dev, TrainingRow)) if job.dev.stat().st_size else []
    dev_rows = dev_set(dev_split, codec, section.max_length, section.turns)
    left_out = len(rows) - len({name for _, own in stages for name in own.names})
    if left_out > 0 and dist.get_rank() == 0:
        context.progress.note(f"{left_out} of {len(rows)} rows belong to no stage of this training")
    return Material(codec, stages, dev_rows, [row.asked for row in dev_split if row.prompt])


def _preflight(job: Job, context: Context, material: Material, model: Any, size: Model) -> Estimate:
    """Everything that can be known to be wrong before the first step. Raises UserError."""
    for stage, rows in material.stages:
        check_rows(stage.name, rows, material.codec, model)
    last, last_rows = material.stages[-1]
    share = check_masks(last.name, last_rows)
    check_disk(context, size)
    longest = max(len(row.ids) for _, rows in material.stages for row in rows.rows)
    estimate = choose(job.section, size, this_machine(job.section.num_nodes), longest)
    loss, seconds_per_token = first_loss(model, material.stages[0][1], material.codec)
    tokens = sum(
        stage.steps
        * job.section.batch_size
        * sum(len(row.ids) for row in rows.rows)
        // len(rows.rows)
        for stage, rows in material.stages
    )
    if dist.get_rank() == 0:
        (job.output / "layout.json").write_text(estimate.chosen.model_dump_json())
        announce(context, estimate, loss, share, seconds_per_token, tokens // dist.get_world_size())
    return estimate


def _objective(job: Job, model: Any) -> Objective:
    section = job.section
    reference = None
    if section.kl_beta:
        assert job.base is not None, "the step gives the base where it is needed"
        reference = load_model(job.base).to(model.device)
    return Objective(
        model, neftune_alpha=section.neftune_alpha, kl_beta=section.kl_beta, reference=reference
    )


def _load_weights(objective: Objective, found: Found) -> None:
    tensors = found.tensors()
    for name, weight in objective.named_parameters():
        if weight.requires_grad:
            if f"weight/{name}" not in tensors:
                raise Corrupt(f"the checkpoint of step {found.receipt.step} has no weight {name}")
            weight.data.copy_(tensors[f"weight/{name}"]())


def _resume(loop: Loop, found: Found) -> None:
    """Put back all that a checkpoint holds. Another number of processes continues with fresh random
    numbers."""
    tensors, rank = found.tensors(), dist.get_rank()
    loop.track = Track.from_json(found.track)
    parameters = ds.trained_parameters(loop.engine)
    ds.restore(
        loop.engine,
        loop.track.updates,
        (
            (
                weight,
                tensors[f"weight/{name}"](),
                tuple(tensors[f"{kind}/{name}"]() for kind in ds.MOMENTS),
            )
            for name, weight in parameters
        ),
    )
    if loop.track.best_step:
        kind = "weight" if loop.track.best_step == loop.track.step else "best"
        own = (
            name for index, (name, _) in enumerate(parameters) if index % loop.world_size == rank
        )
        loop.best = {name: tensors[f"{kind}/{name}"]() for name in own}
    before = found.receipt.world_size
    if before == loop.world_size:
        torch.set_rng_state(tensors[f"random/cpu/{rank}"]())
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors[f"random/cuda/{rank}"]())
    if rank == 0:
        other = (
            ""
            if before == loop.world_size
            else f", with {loop.world_size} processes instead of {before}"
        )
        loop.context.progress.note(f"going on from the checkpoint of step {loop.track.step}{other}")


@dataclass(frozen=True)
class Exported:
    """What is told of the exported model beside its files."""

    share: float | None = None
    """Of the trained model, where it was interpolated with the base."""
    losses: dict[str, float] | None = None
    """Such a share → dev loss."""


def export(job: Job, weights: Mapping[str, Tensor], material: Material) -> Exported:
    """Write the clean checkpoint `model/` of the trained weights, and `adapter/`; every tensor is
    accounted for."""
    if job.lora is not None:
        _export_merged(job, weights, material.codec)
        return Exported()
    # A fresh copy takes the weights: under ZeRO-3 the trained module holds only its partition.
    clean = load_model(job.init)
    _fill(clean, weights)
    exported = Exported()
    if job.section.interpolate and material.dev_rows:
        exported = _interpolate(job, clean, material)
    save_checkpoint(clean, material.codec.tokenizer, job.output / "model")
    return exported


def _fill(model: Any, weights: Mapping[str, Tensor]) -> None:
    missing, unexpected = model.load_state_dict(dict(weights), strict=False)
    tied = {name for name in missing if name in (model.all_tied_weights_keys or {})}
    buffers = {name for name, _ in model.named_buffers()}
    if unexpected or set(missing) - tied - buffers:
        raise RatchetError(
            f"export: weights do not fit the model (missing {missing[:3]}, unknown {unexpected[:3]})"
        )


def _interpolate(job: Job, clean: Any, material: Material) -> Exported:
    assert job.base is not None, "the step gives the base where it is needed"
    loss = CompletionLoss(clean)

    def loss_of(weights: Mapping[str, Tensor]) -> float:
        clean.load_state_dict(dict(weights))
        return mean_loss(loss, material.dev_rows, material.codec.pad_id, 32)

    trained = {
        name: value.clone() for name, value in clean.state_dict().items()
    }  # loss_of overwrites the model's
    chosen = choose_share(load_model(job.base).state_dict(), trained, loss_of)
    clean.load_state_dict(chosen.weights)
    losses = {str(share): value for share, value in chosen.losses.items() if math.isfinite(value)}
    return Exported(chosen.share, losses)


def _export_merged(job: Job, weights: Mapping[str, Tensor], codec: Codec) -> None:
    from components.train.process.adapters import (
        attach,
        merged_state,
        plain_state,
        save_adapter,
        verify_merge,
    )

    assert job.lora is not None
    adapted = attach(load_model(job.init), job.lora)
    _, unexpected = adapted.load_state_dict(dict(weights), strict=False)
    if unexpected:
        raise RatchetError(f"export: the adapted model has no {unexpected[:3]}")
    save_adapter(adapted, job.lora, job.output / "adapter")
    clean = load_model(job.init)
    _fill(clean, merged_state(adapted))
    save_checkpoint(clean, codec.tokenizer, job.output / "model")
    verify_merge(
        plain_state(load_model(job.init)),
        job.output / "adapter",
        plain_state(load_model(job.output / "model")),
    )


def _write(
    job: Job,
    track: Track,
    estimate: Estimate,
    optimizer: str,
    exported: Exported,
    material: Material,
    costs: Costs,
) -> None:
    write_rows(job.output / artifacts.LOG, track.log)
    losses = [entry.loss for entry in track.log if entry.loss is not None]
    tail = losses[-max(1, len(losses) // 10) :]
    dev_losses = [loss for _, loss in track.dev_losses]
    summary = TrainingOutcome(
        steps=len(track.log),
        best_step=track.best_step or len(track.log),
        first_loss=losses[0],
        final_loss=sum(tail) / len(tail),
        first_dev_loss=dev_losses[0] if dev_losses else None,
        best_dev_loss=min(dev_losses) if dev_losses else None,
        final_dev_loss=dev_losses[-1] if dev_losses else None,
        stopped_early=track.stopped_early,
        tokens_trained=track.tokens,
        skipped_steps=track.dropped,
        padding_share=1 - track.tokens / track.positions,
        num_processes=dist.get_world_size(),
        end_of_text_share=end_of_text_share(
            job.output / "model", job.system_prompt, material.prompts, job.max_new_tokens
        ),
        interpolation_share=exported.share,
        interpolation_losses=exported.losses,
        layout=estimate.chosen,
        optimizer=optimizer,
    )
    measured = Measured(summary=summary, costs=costs)
    (job.output / "measured.json").write_text(measured.model_dump_json(), encoding="utf-8")


def main() -> None:
    """Entry of one process that the step started: the job's file is its argument."""
    job = Job.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        context = make_context(job.store, os.environ)
        context.progress.task = job.task
        train(job, context)
    except RatchetError as error:
        # torchrun reports only that a process failed; the step reads this file and raises the error
        # itself.
        said = {"kind": type(error).__name__, "message": str(error)}
        (job.output / "failure.json").write_text(json.dumps(said))
        raise SystemExit(error.exit_code) from None
    # All is written; taking the interpreter down while threads of gloo end has aborted finished
    # processes.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
