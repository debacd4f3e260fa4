"""Equality of mathematical expressions, decided by math-verify in a process that can be killed.

Simplifying what a model wrote may take for ever or fill the memory (`9^{9^{9}}`). So it happens
where an alarm ends the whole process, with a limit on its memory; the answer is then wrong, and the
next one gets a new process.

`python -m components.math_process` is that process: one JSON pair [reference, answer] a line in, 1
or 0 out.
"""

from __future__ import annotations

import functools
import json
import resource
import signal
import sys

from components.bounded_process import READY, BoundedProcess

SECONDS_PER_ANSWER = 5
MEMORY_BYTES = 2 * 2**30
MAX_EXPRESSION_CHARACTERS = 2000
"""Longer expressions are not equal to anything."""


class MathProcess:
    """The process that compares; it starts at the first question, and again after it was killed."""

    def __init__(self) -> None:
        self._process = BoundedProcess("components.math_process", "math-verify")

    def equal(self, reference: str, answer: str) -> bool:
        """Return whether two expressions are the same; False if that cannot be told in time.

        Args:
            reference: LaTeX, or plain as `1/2`.
            answer: The same.
        """
        if max(len(reference), len(answer)) > MAX_EXPRESSION_CHARACTERS:
            return False
        return self._process.ask(json.dumps([reference, answer])) == "1"


def main() -> None:
    """Answer until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    from math_verify import parse, verify
    from math_verify.parser import LatexExtractionConfig

    # Latex alone: the library reads plain expressions by Python's own parser, which would run them.
    latex = [LatexExtractionConfig()]

    # Reading takes most of the time, and in a vote each answer is compared with several others.
    @functools.lru_cache(maxsize=256)
    def parsed(text: str) -> list[object]:
        expressions: list[object] = parse(_as_latex(text), latex, parsing_timeout=None)
        return expressions

    print(READY, end="", flush=True)
    for line in sys.stdin:
        # Without a handler, so that the kernel ends this process even inside one long
        # multiplication: Python runs handlers between two instructions only.
        signal.alarm(SECONDS_PER_ANSWER)
        reference, answer = [parsed(text) for text in json.loads(line)]
        # An expression that cannot be read is equal to nothing.
        is_equal = bool(reference and answer) and verify(
            reference, answer, timeout_seconds=None
        )
        signal.alarm(0)
        print(int(is_equal), flush=True)


def _as_latex(text: str) -> str:
    is_marked = any(mark in text for mark in ("$", "\\boxed", "\\(", "\\["))
    return text if is_marked else f"${text}$"


if __name__ == "__main__":
    main()
