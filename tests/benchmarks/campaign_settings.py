"""The work of one comparison of campaigns (`campaign.py`), as numbers that both sides take.

A module of its own, with nothing to import: the clock of the hand-written loop runs while it is
imported.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LoopWork:
    """The loop: data, training, sampling and selection, in the words of the recipe."""

    seed: int
    system_prompt: str
    num_rounds: int
    """Rounds behind the supervised one."""
    prompts_per_round: int
    samples_per_prompt: int
    temperature: float
    top_k: int
    max_new_tokens: int
    first_steps: int
    first_learning_rate: float
    round_steps: int
    round_learning_rate: float
    batch_size: int
    max_length: int
    warmup_share: float
    min_learning_rate_ratio: float
    weight_decay: float
    beta2: float
    max_gradient_norm: float
    labelled_share: float
    """Share of labelled rows in what a round draws."""
    newest_share: float
    """Share of the newest samples in the rest."""


@dataclass(frozen=True)
class PeerChoice:
    """The settings of the hand-written loop that change its speed and not what it learns."""

    train_attention: str = "eager"
    micro_batch_size: int = 16
    generate_attention: str = "eager"
    generate_rows: int = 128
    """Sequences of one call of `generate`."""


@dataclass(frozen=True)
class RoundEnd:
    """The end of a round, with the best model so far."""

    round_number: int
    seconds: float
    """Since the process was started."""
    accuracy: float
    """Of greedy answers to the validation prompts."""


def write_settings(path: Path, settings: LoopWork | PeerChoice) -> None:
    """Write one of them as JSON."""
    path.write_text(
        json.dumps(dataclasses.asdict(settings), indent=1), encoding="utf-8"
    )


def read_work(path: Path) -> LoopWork:
    """Return what `write_settings` wrote."""
    return LoopWork(**json.loads(path.read_text(encoding="utf-8")))


def read_choice(path: Path) -> PeerChoice:
    """Return what `write_settings` wrote."""
    return PeerChoice(**json.loads(path.read_text(encoding="utf-8")))
