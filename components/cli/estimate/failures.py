"""Expected failures of a trial, as they pass from process to process."""

from __future__ import annotations

from components.cli.estimate.calibration import Frozen
from components.errors import Corrupt, RatchetError, Transient, UserError


class Failure(Frozen):
    """An expected failure of a trial, in the place of its result."""

    kind: str
    """Name of the error's class."""
    message: str


def error_of(failure: Failure) -> RatchetError:
    """Return the error that a process met."""
    kinds: dict[str, type[RatchetError]] = {
        kind.__name__: kind for kind in (UserError, Transient, Corrupt)
    }
    return kinds.get(failure.kind, RatchetError)(failure.message)
