"""A training goes on from a checkpoint: weights before the engine starts, all else after it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.errors import Corrupt
from components.train.process import engine_state
from components.train.process.checkpoint_files import FetchedCheckpoint
from components.train.process.loop import Loop
from components.train.process.objective import Objective
from components.train.process.track import Track


def load_weights(objective: Objective, checkpoint: FetchedCheckpoint) -> None:
    """Load the weights that are trained. Raises Corrupt if the checkpoint lacks one."""
    tensors = checkpoint.tensors()
    for name, weight in objective.named_parameters():
        if not weight.requires_grad:
            continue
        if f"weight/{name}" not in tensors:
            raise Corrupt(
                f"the checkpoint of step {checkpoint.receipt.step} has no weight {name}"
            )
        weight.data.copy_(tensors[f"weight/{name}"]())


def put_back(loop: Loop, checkpoint: FetchedCheckpoint) -> str:
    """Put back all that a checkpoint holds.

    Returns:
        Words about another number of processes, which continues with fresh random numbers; empty if
        it is the same.
    """
    tensors = checkpoint.tensors()
    rank = dist.get_rank()
    loop.track = Track.from_json(checkpoint.track)
    parameters = engine_state.trained_parameters(loop.engine)

    def stored_states() -> Iterator[tuple[nn.Parameter, Tensor, tuple[Tensor, ...]]]:
        for name, weight in parameters:
            moments = [tensors[f"{moment}/{name}"]() for moment in engine_state.MOMENTS]
            yield weight, tensors[f"weight/{name}"](), tuple(moments)

    engine_state.restore(loop.engine, loop.track.updates, stored_states())
    if loop.track.best_step:
        # Weights that are the best themselves were saved once only.
        kind = "weight" if loop.track.best_step == loop.track.step else "best"
        own_names = [name for name, _ in parameters][rank :: loop.world_size]
        loop.best = {name: tensors[f"{kind}/{name}"]() for name in own_names}
    previous_size = checkpoint.receipt.world_size
    if previous_size != loop.world_size:
        return f", with {loop.world_size} processes instead of {previous_size}"
    torch.set_rng_state(tensors[f"random/cpu/{rank}"]())
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[f"random/cuda/{rank}"]())
    return ""
