"""The training loop of one process: batches in, updates out, looks at dev rows, checkpoints on
the way."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.contracts.summaries import LogEntry
from components.errors import RatchetError, Transient
from components.modeling.likelihood import IGNORED, Batch, EncodedRow, collate
from components.runtime.context import Context
from components.train.process import deepspeed_engine as ds
from components.train.process.checkpoints import Checkpoints
from components.train.process.job import Job, OutOfMemory, Stage
from components.train.process.packing import bins, collate_packed
from components.train.process.row_batches import (
    TrainingSet,
    cut,
    learning_rate_at,
    plan_batches,
    share_of,
)
from components.train.process.sizing import fixed_positions
from components.train.process.training_log import Recorder

MAX_DROPPED = 3
"""Updates in a row that may be dropped because a gradient was not finite."""


@dataclass
class Track:
    """What the loop has seen so far: with weights and moments, all a checkpoint needs."""

    step: int = 0
    updates: int = 0
    """Steps that changed the weights."""
    log: list[LogEntry] = field(default_factory=list)
    dev_losses: list[tuple[int, float]] = field(default_factory=list)
    """(step, mean loss per token)."""
    best_step: int = 0
    tokens: int = 0
    positions: int = 0
    """Computed by all processes, padding included."""
    dropped: int = 0
    dropped_in_a_row: int = 0
    stopped_early: bool = False

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        document = {name: value for name, value in vars(self).items() if name != "log"}
        return {**document, "log": [entry.model_dump(mode="json") for entry in self.log]}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Track:
        """Back from a checkpoint."""
        document["dev_losses"] = [(int(step), float(loss)) for step, loss in document["dev_losses"]]
        document["log"] = [LogEntry.model_validate(entry) for entry in document["log"]]
        return cls(**document)


@dataclass
class Loop:
    """One process's part in a training."""

    job: Job
    context: Context
    engine: Any
    device: torch.device
    stages: Sequence[tuple[Stage, TrainingSet]]
    dev_rows: Sequence[EncodedRow]
    pad_id: int
    packed: bool
    autocast: bool
    micro_batch_size: int
    num_parameters: int
    checkpoints: Checkpoints
    recorder: Recorder | None
    track: Track
    best: dict[str, Tensor] = field(default_factory=dict)
    """This process's share of the best weights so far."""

    def __post_init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.last_saved = time.monotonic()

    def run(self) -> None:
        """Train to the end, or until patience is. Raises Transient after SIGTERM, with everything
        saved."""
        with _sigterm_noted() as asked_to_stop:
            begun, before = time.monotonic(), self.track.tokens
            total = sum(stage.steps for stage, _ in self.stages)
            for stage, own_step, batch in self._batches():
                self._one_step(stage, own_step, batch)
                rate = (self.track.tokens - before) / (time.monotonic() - begun)
                self._tell(total, rate)
                if self._patience_ended():
                    self.track.stopped_early = True
                    break
                self._save_if_due(asked_to_stop, last=self.track.step == total)
            self.checkpoints.finish()

    def _batches(self) -> Iterator[tuple[int, int, list[int]]]:
        """(stage, step within it, row indices) of every step that is still to do."""
        done = 0
        for number, (stage, rows) in enumerate(self.stages):
            lengths = [len(row.ids) for row in rows.rows]
            batches = plan_batches(
                rows.shares,
                lengths,
                stage.steps,
                self.job.section.batch_size,
                group_by_length=self.job.section.group_by_length,
                seed=self.job.seed + number,
            )
            skipped = min(max(self.track.step - done, 0), stage.steps)
            for own_step in range(skipped, stage.steps):
                yield number, own_step, batches[own_step]
            done += stage.steps

    def _one_step(self, number: int, own_step: int, batch: list[int]) -> None:
        (stage, rows), section, track = self.stages[number], self.job.section, self.track
        rate = learning_rate_at(
            own_step,
            stage.steps,
            stage.learning_rate,
            warmup_share=section.warmup_share,
            schedule=section.schedule,
            min_ratio=section.min_learning_rate_ratio,
        )
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        loss, positions = self._update([rows.rows[index] for index in batch])
        tokens = sum(len(rows.rows[index].ids) for index in batch)
        track.step += 1
        track.tokens += tokens
        track.positions += positions
        gradient_norm = _finite(ds.gradient_norm(self.engine))
        dropped: tuple[str, ...] | None = None
        if ds.step_was_dropped(self.engine):
            dropped = tuple(self._explain_drop(rows, batch, loss))
        else:
            track.updates += 1
            track.dropped_in_a_row = 0
        dev_loss = None
        last = own_step + 1 == stage.steps
        if self.dev_rows and (
            track.step % section.evaluate_every == 0 or (last and number + 1 == len(self.stages))
        ):
            dev_loss = self._look()
        track.log.append(
            LogEntry(
                step=track.step,
                stage=stage.name,
                loss=_finite(loss),
                learning_rate=rate,
                gradient_norm=gradient_norm,
                tokens=tokens,
                padding_share=1 - tokens / positions,
                dev_loss=dev_loss,
                dropped=dropped,
            )
        )

    def _update(self, rows: list[EncodedRow]) -> tuple[float, int]:
        """One optimizer step on a batch; returns its mean loss per token and the positions all
        processes computed.

        Every process divides by the tokens of the whole batch, so the gradient is that of the mean
        over all loss-bearing tokens however the batch is split into processes, micro-batches and
        packed sequences.
        """
        pieces = self._pieces(rows)
        targets = sum(row.num_targets for row in rows)
        scale = self.world_size * self.engine.gradient_accumulation_steps() / targets
        total = torch.zeros(2, device=self.device)
        for number, piece in enumerate(pieces):
            self.engine.set_gradient_accumulation_boundary(number + 1 == len(pieces))
            with self._out_of_memory_told(piece):
                with self._precision():
                    loss = self.engine(piece.to(self.device))
                self.engine.backward(loss * scale)
                self.engine.step()
            total += torch.stack(
                [
                    loss.detach().float(),
                    torch.tensor(float(piece.num_positions), device=self.device),
                ]
            )
        if self.world_size > 1:
            dist.all_reduce(total)
        return float(total[0]) / targets, int(total[1])

    def _pieces(self, rows: list[EncodedRow]) -> list[Batch]:
        """This process's micro-batches; equally many in every process, as ZeRO-3 needs."""
        lengths = [len(row.ids) for row in rows]
        shares = [
            share_of(range(len(rows)), lengths, rank, self.world_size)
            for rank in range(self.world_size)
        ]
        size = self.micro_batch_size
        if not self.packed:
            own = [rows[index] for index in shares[self.rank]]
            # The share of process 0 has the longest rows; where it is cut, all are.
            fixed = fixed_positions(self.num_parameters, gpu=self.device.type == "cuda")
            cuts = cut([lengths[index] for index in shares[0]], size, fixed)
            return [collate(own[at], self.pad_id) for at in cuts]
        capacity = self.job.section.max_length
        groups = [bins([lengths[index] for index in share], capacity) for share in shares]
        # As many tokens a forward pass as `size` rows of the longest kind have.
        sequences = max(1, size * max(lengths) // capacity)
        most = max(-(-len(group) // sequences) for group in groups)
        share, own_groups = shares[self.rank], groups[self.rank]
        own_rows = [[rows[share[index]] for index in group] for group in own_groups]
        pieces = [
            own_rows[len(own_rows) * turn // most : len(own_rows) * (turn + 1) // most]
            for turn in range(most)
        ]
        return [
            collate_packed(piece, self.pad_id) if piece else _idle(self.pad_id) for piece in pieces
        ]

    def _precision(self) -> Any:
        """bf16 matrix products where they were chosen, in training and in looks at dev rows alike."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    @contextmanager
    def _out_of_memory_told(self, piece: Batch) -> Iterator[None]:
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
                raise
            shape = " × ".join(str(size) for size in piece.input_ids.shape)
            raise OutOfMemory(
                f"{self.job.task}: out of memory at step {self.track.step + 1} with a micro-batch of "
                f"{self.micro_batch_size} rows ({shape} positions)"
            ) from None

    def _explain_drop(self, rows: TrainingSet, batch: list[int], loss: float) -> list[str]:
        """Note which rows gave a loss that is not finite, and end the training after MAX_DROPPED in
        a row."""
        track = self.track
        track.dropped += 1
        track.dropped_in_a_row += 1
        bad = self._rows_without_finite_loss([rows.rows[index] for index in batch])
        names = sorted({rows.names[batch[place]] for place in bad})
        why = (
            f"rows {', '.join(names[:5])} have no finite loss"
            if names
            else "the gradient overflowed, no single loss did"
        )
        if self.rank == 0:
            self.context.progress.note(
                f"step {track.step} dropped, weights unchanged: loss {loss}; {why}"
            )
        if track.dropped_in_a_row >= MAX_DROPPED:
            raise RatchetError(
                f"{self.job.task}: {MAX_DROPPED} steps in a row up to step {track.step} had gradients that are not "
                f"finite and were dropped ({why}); look at these rows, lower the learning rate, or set train.precision "
                "to fp32"
            )
        return names

    def _rows_without_finite_loss(self, rows: list[EncodedRow]) -> list[int]:
        """Places in the batch; every process looks at its own share, one row at a time
        (collective)."""
        bad = torch.zeros(len(rows), device=self.device)
        lengths = [len(row.ids) for row in rows]
        self.engine.module.eval()
        with torch.no_grad(), self._precision():
            for place in share_of(range(len(rows)), lengths, self.rank, self.world_size):
                value = self.engine.module(collate([rows[place]], self.pad_id).to(self.device))
                bad[place] = float(not math.isfinite(float(value)))
        self.engine.module.train()
        if self.world_size > 1:
            dist.all_reduce(bad)
        return [place for place, value in enumerate(bad.tolist()) if value]

    def _look(self) -> float:
        """Mean dev loss per token; the weights are kept if it is the lowest (collective)."""
        value, track = self.dev_loss(), self.track
        if not track.dev_losses or value < min(loss for _, loss in track.dev_losses):
            self.best, track.best_step = ds.own_share(self.engine, ds.full_weight), track.step
        track.dev_losses.append((track.step, value))
        return value

    def dev_loss(self) -> float:
        """Every process takes its share of length-sorted batches."""
        size = max(self.micro_batch_size, 1)
        ordered = sorted(self.dev_rows, key=lambda row: len(row.ids))
        batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        total = torch.zeros((), device=self.device)
        self.engine.module.eval()
        with torch.inference_mode(), self._precision():
            for start in range(0, len(batches), self.world_size):
                # The last turn may have no batch for all: idle processes compute one that bears no
                # loss.
                mine = start + self.rank
                batch = (
                    collate(batches[mine], self.pad_id)
                    if mine < len(batches)
                    else _idle(self.pad_id)
                )
                total += self.engine.module(batch.to(self.device)).float()
        self.engine.module.train()
        if self.world_size > 1:
            dist.all_reduce(total)
        return float(total) / sum(row.num_targets for row in self.dev_rows)

    def _patience_ended(self) -> bool:
        losses, patience = (
            [loss for _, loss in self.track.dev_losses],
            self.job.section.early_stopping_patience,
        )
        return len(losses) > patience and min(losses[-patience:]) > min(losses)

    def _tell(self, total: int, rate: float) -> None:
        if self.rank == 0:
            entry = self.track.log[-1]
            loss = "not finite" if entry.loss is None else f"{entry.loss:.4f}"
            self.context.progress.update(self.track.step, total, rate, f"loss {loss}")
            if self.recorder is not None:
                self.recorder.step(entry, rate)

    def _save_if_due(self, asked_to_stop: Callable[[], bool], *, last: bool) -> None:
        """Save a checkpoint when it is time and the last one has arrived; on SIGTERM save now, and
        stop."""
        stop, due, busy = asked_to_stop(), self._is_due() and not last, self.checkpoints.busy
        if self.world_size > 1:
            flags = torch.tensor([stop, due, busy], dtype=torch.float32, device=self.device)
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
            stop, due, busy = (bool(flag) for flag in flags.tolist())
        if not stop and (busy or not due):
            return
        if not self.track.updates:
            if stop:
                raise Transient(
                    f"{self.job.task}: stopped by SIGTERM before its first update; start it again"
                )
            return
        self.checkpoints.finish()
        tensors = ds.snapshot(
            self.engine, self.best if self.track.best_step != self.track.step else {}
        )
        self.checkpoints.save(self.track.step, tensors, self.track.as_json())
        self.last_saved = time.monotonic()
        if self.recorder is not None:
            self.recorder.save()
        if stop:
            self.checkpoints.finish()
            raise Transient(
                f"{self.job.task}: stopped by SIGTERM after step {self.track.step}, which is saved; the same command "
                "goes on from there"
            )

    def _is_due(self) -> bool:
        return (
            self.rank == 0
            and time.monotonic() - self.last_saved >= 60 * self.job.section.checkpoint_minutes
        )


def _idle(pad_id: int) -> Batch:
    """A batch without loss, for a process that has nothing to do while others compute."""
    ids = torch.full((1, 2), pad_id, dtype=torch.long)
    return Batch(ids, torch.full_like(ids, IGNORED))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _is_out_of_memory(error: RuntimeError) -> bool:
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "can't allocate memory" in text
        or "out of memory" in text
    )


@contextmanager
def _sigterm_noted() -> Iterator[Callable[[], bool]]:
    """Instead of dying from SIGTERM, let the loop see it."""
    seen = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield seen.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.set())
    try:
        yield seen.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
