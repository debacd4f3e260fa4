"""Verifier `reasoning_gym`: the task's own scorer, which never runs what a model wrote.

Some scorers evaluate the answer as Python. They are given only answers of characters that cannot
name or call anything.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import tokenize
from collections.abc import Callable
from typing import Any

from components.canonical import normalised_text
from components.contracts.rows import Prompt
from components.errors import UserError
from components.verifiers.final_answer import answer_part

# `1e999999999` is a short answer whose evaluation would fill the memory.
_HUGE_EXPONENT = re.compile(r"[eE][-+]?[0-9]{4,}")
# Without `**`: a power of powers takes for ever.
_ARITHMETIC = re.compile(r"(?!.*\*\s*\*)[0-9+\-*/(). ]{1,200}")
_EVALUATED: dict[str, re.Pattern[str] | None] = {
    "countdown": _ARITHMETIC,
    "puzzle24": _ARITHMETIC,
    "string_insertion": re.compile(r"[A-E]*"),
    "spiral_matrix": re.compile(r"[0-9\s-]*"),
    "binary_matrix": re.compile(r"[0-9\s-]*"),
    "n_queens": re.compile(r"[Q_\s]*"),
    "simple_integration": None,
    "intermediate_integration": None,
    "polynomial_multiplication": None,
    # Made of other tasks, whose names are known only when it is asked.
    "composite": None,
}
"""Scorers that evaluate the answer as Python → what an answer may consist of; None: not to be used.
"""

_SCORER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    re.error,
    tokenize.TokenError,
)
"""Errors that reasoning-gym's scorers raise on text they cannot parse; the answer is then wrong."""


Scorer = Callable[[str, dict[str, Any]], float]
"""(answer, entry of the task's data set) → score from 0 to 1."""


def accepts(prompt: Prompt, text: str) -> bool:
    """Return whether the task's scorer gives the answer its full score."""
    name = str(prompt.reference["name"])
    answer = answer_part(text).strip()
    allowed = _EVALUATED.get(name)
    if name in _EVALUATED:
        is_allowed = allowed is not None and allowed.fullmatch(answer)
        if not is_allowed:
            return False
    if _HUGE_EXPONENT.search(answer):
        return False
    config = json.dumps(prompt.reference.get("config", {}), sort_keys=True)
    scorer = _scorer(name, config)
    try:
        # A scorer gives part of the score for the format alone; only the full one is right.
        return float(scorer(answer, prompt.reference["entry"])) >= 1.0
    except _SCORER_ERRORS:
        return False


def answer_key(text: str) -> str:
    """Return what stands between the last `<answer>` tags, else all of the text, normalised."""
    return normalised_text(answer_part(text))


def scorer_is_safe(name: str) -> bool:
    """Return False for a task whose scorer would evaluate arbitrary text of the model as code."""
    return _EVALUATED.get(name, _ARITHMETIC) is not None


def require_gym() -> None:
    """Raise UserError, with what installs it, where the package reasoning-gym is missing."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError(
            "tasks reasoning_gym/… and their verifier need the package reasoning-gym, which is not "
            "installed: pip install reasoning-gym, or the extra `gym` of ratchet-lm"
        )


# A data set is built only to get at its scorer, and a round has few tasks.
@functools.lru_cache(maxsize=64)
def _scorer(name: str, config: str) -> Scorer:
    require_gym()
    import reasoning_gym

    dataset = reasoning_gym.create_dataset(name, seed=0, size=1, **json.loads(config))
    scorer: Scorer = dataset.score_answer
    return scorer
