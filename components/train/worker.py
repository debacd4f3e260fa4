"""The training loop, one process of it: `python -m components.train.worker JOB.json` (torchrun), or `train(job)`."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from components.common.errors import RatchetError, UserError
from components.common.records import TrainingRow, read_rows
from components.common.telemetry import Progress
from components.modeling.encoding import Codec
from components.modeling.likelihood import CompletionLoss, EncodedRow, collate, mean_loss
from components.modeling.load import load_model, load_tokenizer, save_checkpoint
from components.train.data import learning_rate_at, plan_batches, share_of
from components.train.engine import best_weights, start_engine
from components.train.step import Job


@dataclass
class Track:
    """What the loop has seen so far."""

    log: list[dict[str, Any]] = field(default_factory=list)
    heldout: list[tuple[int, float]] = field(default_factory=list)
    """(step, held-out loss); step 0 is before training."""
    best: dict[str, torch.Tensor] | None = None
    best_step: int = 0
    tokens: int = 0
    positions: int = 0
    skipped: int = 0
    stopped_early: bool = False


def train(job: Job, progress: Progress) -> None:
    """Train one candidate and write `model/`, `log.jsonl`, `measured.json` into job.output (rank 0 only)."""
    begun = time.monotonic()
    torch.manual_seed(job.seed)
    torch.set_num_threads(job.threads)
    codec = Codec(load_tokenizer(job.init), job.system_prompt)
    rows, encoded = _encode(job.mix, codec, job.section.max_length)
    _, heldout = _encode(job.heldout, codec, job.section.max_length) if job.heldout.stat().st_size else ([], [])
    model = load_model(job.init)
    model.train()
    engine = start_engine(CompletionLoss(model), job)
    batches = plan_batches(
        [row.weight for row in rows], [len(row.ids) for row in encoded], job.steps, job.section.batch_size,
        group_by_length=job.section.group_by_length, seed=job.seed,
    )  # fmt: skip
    started = time.monotonic()
    track = Track()
    _loop(job, engine, encoded, heldout, batches, codec.pad_id, track, progress)
    compute_seconds = time.monotonic() - started
    weights = track.best if track.best is not None else best_weights(engine)
    if dist.get_rank() == 0:
        # A fresh copy takes the weights: under ZeRO-3 the trained module holds only its partition.
        clean = load_model(job.init)
        clean.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()}, strict=False)
        _write(job, clean, codec, track, {"compute_seconds": compute_seconds, "startup_seconds": started - begun})
    dist.barrier()
    dist.destroy_process_group()


def _encode(path: Path, codec: Codec, max_length: int) -> tuple[list[TrainingRow], list[EncodedRow]]:
    rows = list(read_rows(path, TrainingRow))
    encoded = [EncodedRow(*codec.row_ids(row.prompt, row.completion)) for row in rows]
    longest = max((len(row.ids) for row in encoded), default=0)
    if longest > max_length:
        count = sum(len(row.ids) > max_length for row in encoded)
        raise UserError(
            f"{path.name}: {count} of {len(rows)} rows are longer than train.max_length {max_length} "
            f"(longest {longest} tokens): raise it or remove them"
        )
    if rows and not sum(row.num_targets for row in encoded):
        raise UserError(f"{path.name}: no token bears loss; are all completions empty?")
    return rows, encoded


def _loop(
    job: Job, engine: Any, rows: list[EncodedRow], heldout: list[EncodedRow], batches: list[list[int]], pad_id: int,
    track: Track, progress: Progress,
) -> None:  # fmt: skip
    section, lengths = job.section, [len(row.ids) for row in rows]
    rank, world = dist.get_rank(), dist.get_world_size()
    begun = time.monotonic()
    for step, batch in enumerate(batches):
        rate = learning_rate_at(
            step, job.steps, job.learning_rate, warmup_share=section.warmup_share, schedule=section.schedule,
            min_ratio=section.min_learning_rate_ratio,
        )  # fmt: skip
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        targets = sum(rows[index].num_targets for index in batch)
        mine = share_of(batch, lengths, rank, world)
        loss, positions = _step(engine, [rows[index] for index in mine], targets, pad_id, job)
        track.tokens += sum(lengths[index] for index in batch)
        track.positions += positions
        norm = float(engine.get_global_grad_norm() or 0.0)
        entry = {"step": step + 1, "loss": loss, "learning_rate": rate, "gradient_norm": norm, "heldout_loss": None}
        if not math.isfinite(loss):
            raise RatchetError(f"{job.task}: loss is {loss} at step {step + 1}; lower train learning_rate or use fp32")
        if heldout and ((step + 1) % section.evaluate_every == 0 or step + 1 == len(batches)):
            entry["heldout_loss"] = _look(job, engine, heldout, pad_id, step + 1, track)
        track.log.append(entry)
        if rank == 0:
            progress.update(step + 1, len(batches), track.tokens / (time.monotonic() - begun), f"loss {loss:.4f}")
        if _patience_ended(track, section.early_stopping_patience):
            track.stopped_early = True
            break


def _step(engine: Any, rows: list[EncodedRow], targets: int, pad_id: int, job: Job) -> tuple[float, int]:
    """One optimizer step on this process's rows; returns the batch's mean loss per token and the positions computed.

    Every process divides by the tokens of the whole batch, so the gradient is that of the mean over all loss-bearing
    tokens however the batch is split into processes and micro-batches.
    """
    micro = job.section.micro_batch_size
    world = dist.get_world_size()
    device = engine.device
    pieces = [rows[start : start + micro] for start in range(0, len(rows), micro)]
    total, positions = torch.zeros((), device=device), 0
    for number, piece in enumerate(pieces):
        inputs, labels = collate(piece, pad_id)
        positions += inputs.numel()
        engine.set_gradient_accumulation_boundary(number + 1 == len(pieces))
        with _autocast(job, device):
            loss = engine(inputs.to(device), labels.to(device))
        engine.backward(loss * (world * len(pieces) / targets))
        total += loss.detach().float()
        engine.step()
    if world > 1:
        dist.all_reduce(total)
    return float(total) / targets, positions


def _look(job: Job, engine: Any, heldout: list[EncodedRow], pad_id: int, step: int, track: Track) -> float:
    engine.module.eval()
    with _autocast(job, engine.device):
        value = mean_loss(engine.module, heldout, pad_id, job.section.micro_batch_size)
    engine.module.train()
    if not track.heldout or value < min(loss for _, loss in track.heldout):
        track.best, track.best_step = best_weights(engine), step
    track.heldout.append((step, value))
    return value


def _autocast(job: Job, device: torch.device) -> Any:
    """bf16 matrix products where the recipe asks for them, in training and in held-out looks alike."""
    return torch.autocast(device.type, torch.bfloat16, enabled=job.section.precision == "autocast")


def _patience_ended(track: Track, patience: int) -> bool:
    losses = [loss for _, loss in track.heldout]
    return len(losses) > patience and min(losses[-patience:]) > min(losses)


def _write(job: Job, model: Any, codec: Codec, track: Track, costs: dict[str, float]) -> None:
    save_checkpoint(model.eval(), codec.tokenizer, job.output / "model")
    with (job.output / "log.jsonl").open("w", encoding="utf-8") as file:
        for entry in track.log:
            file.write(json.dumps(entry) + "\n")
    losses = [entry["loss"] for entry in track.log]
    tail = losses[-max(1, len(losses) // 10) :]
    heldout = [loss for _, loss in track.heldout]
    summary = {
        "steps": len(losses), "best_step": track.best_step or len(losses), "first_loss": losses[0],
        "final_loss": sum(tail) / len(tail), "first_heldout_loss": heldout[0] if heldout else None,
        "best_heldout_loss": min(heldout) if heldout else None, "final_heldout_loss": heldout[-1] if heldout else None,
        "stopped_early": track.stopped_early, "tokens_trained": track.tokens, "skipped_steps": track.skipped,
        "padding_share": 1 - track.tokens / (track.positions * dist.get_world_size()),
    }  # fmt: skip
    (job.output / "measured.json").write_text(json.dumps({"summary": summary, "costs": costs}))


def main() -> None:
    """Entry of one rank under torchrun."""
    job = Job.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    progress = Progress.from_environment(os.environ)
    progress.task = job.task
    try:
        train(job, progress)
    except RatchetError as error:
        # torchrun reports only that a rank failed; the step reads this file and raises the error itself.
        said = {"kind": type(error).__name__, "message": str(error)}
        (job.output / "failure.json").write_text(json.dumps(said))
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
