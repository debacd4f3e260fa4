"""The training loop of one process: updates, evaluations on dev rows, and checkpoints."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.contracts.summaries import LogEntry
from components.errors import RatchetError, Transient
from components.modeling.batches import length_sorted_batches
from components.modeling.likelihood import Batch, EncodedRow, collate
from components.modeling.memory import is_out_of_memory
from components.runtime.context import Context
from components.train.process import deepspeed_engine as ds
from components.train.process import engine_state
from components.train.process.augmentation import Augmenter
from components.train.process.checkpoints import Checkpoints
from components.train.process.job import Job, OutOfMemory, Stage
from components.train.process.micro_batches import MicroBatches, idle_batch
from components.train.process.references import Reader, drawn_rows, put_into_rows
from components.train.process.row_batches import (
    TrainingSet,
    learning_rate_at,
    plan_batches,
    share_of,
)
from components.train.process.track import Track
from components.train.process.training_log import Recorder

# One broken row among many is passed over; three steps in a row are a broken training.
MAX_DROPPED = 3
"""Steps in a row whose gradients are not finite, after which the training fails."""


@dataclass
class Loop:
    """The training loop of one process."""

    job: Job
    context: Context
    engine: ds.Engine
    device: torch.device
    stages: Sequence[tuple[Stage, TrainingSet]]
    dev_rows: Sequence[Sequence[EncodedRow]]
    """Rows of each stage's evaluations; without any it has no early stopping."""
    micro_batches: MicroBatches
    reader: Reader
    autocast: bool
    """Matrix products are in bf16, weights in fp32."""
    checkpoints: Checkpoints
    recorder: Recorder | None
    """In process 0 alone."""
    track: Track
    augmenters: Sequence[Augmenter | None]
    """Noise on the rows of each stage; None: none."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """This process's share of the best weights of this stage so far."""

    def __post_init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.last_saved = self.context.clock()

    def run(self) -> None:
        """Train every remaining stage to its end, or until the patience of early stopping ends.

        Raises Transient after SIGTERM, with everything saved.
        """
        with _sigterm_recorded() as asked_to_stop:
            begun = self.context.clock()
            tokens_at_start = self.track.tokens
            for number in range(self.track.stage, len(self.stages)):
                self._enter_stage(number)
                num_steps = self.track.stage_begun + sum(
                    stage.steps for stage, _ in self.stages[number:]
                )
                for stage_step, batch in self._batches(number):
                    self._take_step(number, stage_step, batch)
                    # A clock may stand still between two readings, or be set back.
                    seconds = max(self.context.clock() - begun, 1e-9)
                    self._report(
                        num_steps, (self.track.tokens - tokens_at_start) / seconds
                    )
                    if self._patience_ended():
                        self._end_stage_early(number)
                        break
                    self._save_if_due(asked_to_stop, last=self.track.step == num_steps)
            self.checkpoints.finish()

    def _enter_stage(self, number: int) -> None:
        """Begin a stage, unless a checkpoint is within it already."""
        track = self.track
        if number == track.stage:
            return
        track.stage = number
        track.stage_begun = track.step
        # The best weights of a stage that taught something else are no result of this one.
        track.best_step = 0
        self.best = {}

    def _end_stage_early(self, number: int) -> None:
        stage, _ = self.stages[number]
        if number + 1 == len(self.stages):
            self.track.stopped_early = True
        elif self.rank == 0:
            self.context.progress.note(
                f"stage {stage.name} ended early, at step {self.track.step}: the dev loss of its "
                "rows no longer falls; the next stage goes on from here"
            )

    def _batches(self, number: int) -> Iterator[tuple[int, list[int]]]:
        """Yield (step within the stage, row indices) of every remaining step of a stage."""
        stage, _ = self.stages[number]
        batches = self._plan(number)
        # The plan is made anew from its seed, so a resumed training sees the same batches.
        num_done = self.track.step - self.track.stage_begun
        for stage_step in range(num_done, stage.steps):
            yield stage_step, batches[stage_step]

    def _plan(self, number: int) -> list[list[int]]:
        """Return the row indices of every step of a stage."""
        stage, stage_rows = self.stages[number]
        return plan_batches(
            stage_rows.shares,
            [row.longest for row in stage_rows.rows],
            stage.steps,
            self.job.section.batch_size,
            group_by_length=self.job.section.group_by_length,
            seed=self.job.seed + number,
        )

    def measure_reference(self, reference: AbstractContextManager[nn.Module]) -> None:
        """Give every row that is drawn its likelihood by the reference model (collective).

        A training that goes on takes them from its checkpoint: its own model has moved on.

        Args:
            reference: its objective.
        """
        if not self.micro_batches.compares_rows:
            return
        track = self.track
        rows_of_stages = [stage_rows for _, stage_rows in self.stages]
        plans = [self._plan(number) for number in range(len(self.stages))]
        drawn = drawn_rows(rows_of_stages, plans)
        if len(track.references) != len(drawn):
            with self._precision(), reference as objective:
                track.references = self.reader.of_drawn(objective, drawn)
                if self.micro_batches.kind == "unpaired":
                    track.mismatched_references = self.reader.of_steps(
                        objective, rows_of_stages, plans
                    )
        put_into_rows(drawn, track.references)

    def _take_step(self, stage_number: int, stage_step: int, batch: list[int]) -> None:
        """Update the weights once, evaluate if it is time, and add an entry to the log."""
        stage, stage_rows = self.stages[stage_number]
        section = self.job.section
        track = self.track
        rate = learning_rate_at(
            stage_step,
            stage.steps,
            stage.learning_rate,
            warmup_share=section.warmup_share,
            schedule=section.schedule,
            min_ratio=section.min_learning_rate_ratio,
        )
        # Set here, not by a scheduler: a scheduler's state would be one more thing to resume.
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        batch_rows = [stage_rows.rows[index] for index in batch]
        augmenter = self.augmenters[stage_number]
        if augmenter is not None:
            batch_rows = augmenter.copies(batch_rows, stage_step)
        loss, positions = self._update(batch_rows)
        tokens = sum(row.num_tokens for row in batch_rows)
        track.step += 1
        track.tokens += tokens
        track.positions += positions
        # JSON has no NaN and no infinity: they are None in the log.
        gradient_norm = _finite(ds.gradient_norm(self.engine))
        dropped: tuple[str, ...] | None = None
        if ds.step_was_dropped(self.engine):
            names = [stage_rows.names[index] for index in batch]
            dropped = tuple(self._explain_drop(batch_rows, names, loss))
        else:
            track.updates += 1
            track.dropped_in_a_row = 0
        last_of_stage = stage_step + 1 == stage.steps
        last_of_all = last_of_stage and stage_number + 1 == len(self.stages)
        dev_loss = None
        due = track.step % section.evaluate_every == 0 or last_of_all
        if self.dev_rows[stage_number] and due:
            dev_loss = self._evaluate()
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
        """Take one optimizer step; return (mean loss, positions of all processes).

        The mean is over tokens, or over rows by some objectives.
        """
        if self.micro_batches.kind == "unpaired":
            self._estimate_divergence(rows)
        pieces = self.micro_batches.of(rows, self.rank, self.world_size)
        by_rows = self.micro_batches.by_rows
        targets = len(rows) if by_rows else sum(row.num_targets for row in rows)
        # DeepSpeed divides by processes and accumulation steps; here every process divides by the
        # tokens of the whole batch instead. So the gradient is that of the mean over all
        # loss-bearing tokens, however the batch is split into processes, micro-batches and packed
        # sequences.
        scale = self.world_size * self.engine.gradient_accumulation_steps() / targets
        total = torch.zeros(2, device=self.device)
        for number, piece in enumerate(pieces):
            self.engine.set_gradient_accumulation_boundary(number + 1 == len(pieces))
            with self._out_of_memory_explained(piece):
                with self._precision():
                    loss = self.engine(piece.to(self.device))
                self.engine.backward(loss * scale)
                self.engine.step()
            num_positions = torch.tensor(float(piece.num_positions), device=self.device)
            total += torch.stack([loss.detach().float(), num_positions])
        # Reduced and read once a step: each read waits for the device.
        if self.world_size > 1:
            dist.all_reduce(total)
        total_loss, total_positions = total.tolist()
        return total_loss / targets, int(total_positions)

    def _estimate_divergence(self, rows: list[EncodedRow]) -> None:
        """Tell the objective how far the model is from the reference on a step's rows (collective).

        Of the whole step and before its first micro-batch, so that the loss depends neither on
        micro-batches nor on processes.
        """
        with self._precision():
            likelihood = self.reader.mean_of_mismatched(self.engine.module, rows)
        reference = self.track.mismatched_references[self.track.step]
        self.engine.module.divergence = max(0.0, likelihood - reference)

    def _precision(self) -> torch.autocast:
        """Return the context of bf16 matrix products, where chosen, for training and evaluation."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    @contextmanager
    def _out_of_memory_explained(self, piece: Batch) -> Iterator[None]:
        """Turn any allocator's failure into OutOfMemory with the step and the micro-batch."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            shape = " × ".join(str(size) for size in piece.input_ids.shape)
            raise OutOfMemory(
                f"{self.job.task}: out of memory at step {self.track.step + 1} with a micro-batch "
                f"of {self.micro_batches.micro_batch_size} rows ({shape} positions)"
            ) from None

    def _explain_drop(
        self, rows: list[EncodedRow], names: list[str], loss: float
    ) -> list[str]:
        """Note and return the names of the rows whose loss is not finite.

        `names` are those of all rows of the batch. Raises RatchetError after MAX_DROPPED dropped
        steps in a row.
        """
        track = self.track
        track.dropped += 1
        track.dropped_in_a_row += 1
        bad_positions = self._rows_without_finite_loss(rows)
        bad_names = sorted({names[position] for position in bad_positions})
        cause = "the gradient overflowed, no single loss did"
        if bad_names:
            cause = f"rows {', '.join(bad_names[:5])} have no finite loss"
        if self.rank == 0:
            self.context.progress.note(
                f"step {track.step} dropped, weights unchanged: loss {loss}; {cause}"
            )
        if track.dropped_in_a_row >= MAX_DROPPED:
            raise RatchetError(
                f"{self.job.task}: {MAX_DROPPED} steps in a row up to step {track.step} had "
                f"gradients that are not finite and were dropped ({cause}); look at these rows, "
                "lower the learning rate, or set train.precision to fp32"
            )
        return bad_names

    def _rows_without_finite_loss(self, rows: list[EncodedRow]) -> list[int]:
        """Return positions in the batch of rows without a finite loss (collective).

        Every process tries its own share, one row at a time.
        """
        bad = torch.zeros(len(rows), device=self.device)
        lengths = [len(row.ids) for row in rows]
        self.engine.module.eval()
        with torch.no_grad(), self._precision():
            for position in share_of(
                range(len(rows)), lengths, self.rank, self.world_size
            ):
                row_batch = collate([rows[position]], self.micro_batches.pad_id)
                loss = float(self.engine.module(row_batch.to(self.device)))
                bad[position] = float(not math.isfinite(loss))
        self.engine.module.train()
        if self.world_size > 1:
            dist.all_reduce(bad)
        return [position for position, is_bad in enumerate(bad.tolist()) if is_bad]

    def _evaluate(self) -> float:
        """Return the mean dev loss per token; keep the weights if it is the lowest (collective)."""
        dev_loss = self.dev_loss()
        track = self.track
        if dev_loss < min(track.stage_dev_losses, default=math.inf):
            self.best = engine_state.own_share(self.engine, engine_state.full_weight)
            track.best_step = track.step
        track.dev_losses.append((track.step, dev_loss))
        return dev_loss

    def dev_loss(self) -> float:
        """Return the mean loss per token of the stage's dev rows (collective).

        Every process takes its share of length-sorted batches.
        """
        dev_rows = self.dev_rows[self.track.stage]
        lengths = [len(row.ids) for row in dev_rows]
        batches = list(
            length_sorted_batches(lengths, max(self.micro_batches.micro_batch_size, 1))
        )
        total = torch.zeros((), device=self.device)
        self.engine.module.eval()
        with torch.inference_mode(), self._precision():
            for start in range(0, len(batches), self.world_size):
                index = start + self.rank
                # The last turn may have too few batches: idle processes compute one without loss,
                # for under ZeRO-3 a forward pass gathers weights from all processes.
                batch = idle_batch(self.micro_batches.pad_id)
                if index < len(batches):
                    batch_rows = [dev_rows[row] for row in batches[index]]
                    batch = collate(batch_rows, self.micro_batches.pad_id)
                total += self.engine.module(batch.to(self.device)).float()
        self.engine.module.train()
        if self.world_size > 1:
            dist.all_reduce(total)
        return float(total) / sum(row.num_targets for row in dev_rows)

    def _patience_ended(self) -> bool:
        """Return True if the last evaluations, as many as the patience, were all no improvement."""
        losses = self.track.stage_dev_losses
        patience = self.job.section.early_stopping_patience
        if len(losses) <= patience:
            return False
        return min(losses[-patience:]) > min(losses)

    def _report(self, num_steps: int, rate: float) -> None:
        """Report the last step, in process 0; `rate` is in tokens a second."""
        if self.rank != 0:
            return
        entry = self.track.log[-1]
        loss = "not finite" if entry.loss is None else f"{entry.loss:.4f}"
        message = f"loss {loss}"
        self.context.progress.update(self.track.step, num_steps, rate, message)
        if self.recorder is not None:
            self.recorder.step(entry, rate, num_steps)

    def _save_if_due(self, asked_to_stop: Callable[[], bool], *, last: bool) -> None:
        """Save a checkpoint when it is time and the last one is stored.

        After SIGTERM save at once and raise Transient.
        """
        # torchrun kills its processes 30 seconds after SIGTERM.
        stop = asked_to_stop()
        due = self._is_due() and not last
        busy = self.checkpoints.busy
        # Saving is collective, but SIGTERM reaches each process by itself and one reads the clock.
        if self.world_size > 1:
            flags = torch.tensor(
                [stop, due, busy], dtype=torch.float32, device=self.device
            )
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
            stop, due, busy = (bool(flag) for flag in flags.tolist())
        if not stop and (not due or busy):
            return
        # AdamW has no moments to save before its first update.
        if not self.track.updates:
            if stop:
                raise Transient(
                    f"{self.job.task}: stopped by SIGTERM before its first update; start it again"
                )
            return
        self.checkpoints.finish()
        # Weights that are the best themselves need no second copy.
        best = self.best if self.track.best_step != self.track.step else {}
        tensors = engine_state.snapshot(self.engine, best)
        self.checkpoints.save(self.track.step, tensors, self.track.as_json())
        self.last_saved = self.context.clock()
        if self.recorder is not None:
            self.recorder.save()
        if stop:
            self.checkpoints.finish()
            raise Transient(
                f"{self.job.task}: stopped by SIGTERM after step {self.track.step}, which is "
                "saved; the same command goes on from there"
            )

    def _is_due(self) -> bool:
        seconds = self.context.clock() - self.last_saved
        return self.rank == 0 and seconds >= 60 * self.job.section.checkpoint_minutes


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@contextmanager
def _sigterm_recorded() -> Iterator[Callable[[], bool]]:
    """Record SIGTERM instead of dying from it; yield whether it came.

    Only the main thread can. In another thread signals stay as they are.
    """
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return
    previous_handler = signal.signal(
        signal.SIGTERM, lambda number, frame: received.set()
    )
    try:
        yield received.is_set
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
