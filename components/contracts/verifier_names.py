"""Names that a recipe may give for the verifier of a source."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

TEXT_METRICS = ("chrf", "bleu", "rouge_l", "wer", "cer")
"""Verifiers that grade how near a text is to its references."""
VERIFIER_NAMES = (
    "exact",
    "numeric",
    "math",
    "choice",
    "regex",
    "code",
    "sql",
    "json_schema",
    *TEXT_METRICS,
)
"""Verifiers that are ready; see `components.verifiers`."""
_OWN = re.compile(
    r"(?P<file>(?:[A-Za-z0-9][\w.-]*/)*[A-Za-z_]\w*\.py)?(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)?"
    r":(?P<function>[A-Za-z_]\w*)"
)


@dataclass(frozen=True)
class OwnName:
    """A verifier of the user's, as a recipe names it."""

    file: str
    """Path beside the recipe, such as `my_checker.py`; empty if it is named by its module."""
    module: str
    """Name by which it is imported."""
    function: str

    def __str__(self) -> str:
        return f"{self.file or self.module}:{self.function}"


def own_name(verifier: str) -> OwnName | None:
    """Return the parts of `module:function` or `file.py:function`, None for another name."""
    match = _OWN.fullmatch(verifier)
    if match is None or (match["file"] is None) == (match["module"] is None):
        return None
    file = match["file"] or ""
    module = match["module"] or PurePosixPath(file).stem
    return OwnName(file, module, match["function"])


def gives_scores(verifier: str) -> bool:
    """Return whether answers have scores between 0 and 1, not right and wrong alone."""
    return verifier in TEXT_METRICS or own_name(verifier) is not None


def checked_name(verifier: str) -> str:
    """Return the name of a verifier. Raise ValueError, with the nearest name, if it is none."""
    if verifier in VERIFIER_NAMES or own_name(verifier) is not None:
        return verifier
    # In lower case: `Exact` has more letters in common with other names.
    nearest = difflib.get_close_matches(
        verifier.lower(), VERIFIER_NAMES, n=1, cutoff=0.0
    )[0]
    raise ValueError(
        f"no verifier {verifier!r}: use {', '.join(VERIFIER_NAMES)}, or a function of your own as "
        f"my_checker.py:check or module:function. Did you mean {nearest!r}?"
    )
