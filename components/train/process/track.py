"""State of the training loop, as a checkpoint stores it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import JsonValue, TypeAdapter

from components.contracts.summaries import LogEntry


@dataclass
class Track:
    """State of the loop. With weights and moments it is all that a checkpoint needs."""

    step: int = 0
    updates: int = 0
    """Steps that changed the weights."""
    stage: int = 0
    """Number of the stage, from 0."""
    stage_begun: int = 0
    """Steps before this stage."""
    log: list[LogEntry] = field(default_factory=list)
    dev_losses: list[tuple[int, float]] = field(default_factory=list)
    """(step, mean loss per token), of all stages."""
    best_step: int = 0
    """Step with the lowest dev loss of this stage; 0 before any."""
    tokens: int = 0
    positions: int = 0
    """Token positions that all processes computed, padding included."""
    references: list[float] = field(default_factory=list)
    """Of each row that is drawn, by the reference model; empty where none is compared with."""
    mismatched_references: list[float] = field(default_factory=list)
    """Of each step, the mean over its mismatched rows, by the reference model (`kto`)."""
    dropped: int = 0
    dropped_in_a_row: int = 0
    stopped_early: bool = False
    """The last stage ended by early stopping."""

    @property
    def stage_dev_losses(self) -> list[float]:
        """Dev losses of this stage: another stage has other dev rows."""
        return [loss for step, loss in self.dev_losses if step > self.stage_begun]

    def as_json(self) -> dict[str, JsonValue]:
        """Return the document that a checkpoint stores."""
        document = dict(vars(self))
        document["log"] = [entry.model_dump(mode="json") for entry in self.log]
        return document

    @classmethod
    def from_json(cls, document: dict[str, JsonValue]) -> Track:
        """Return the state that a checkpoint stored."""
        # Checks types, and makes tuples and log entries of JSON's lists and objects again.
        return TypeAdapter(cls).validate_python(document)
