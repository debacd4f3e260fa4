"""Built-in tasks, whose problems have a length and whose answers follow from the prompt alone."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from components.canonical import JsonObject, composed_text
from components.contracts.rows import Prompt


@dataclass(frozen=True)
class BuiltinTask:
    """One task: `prepare` makes its prompts, and the verifier `task/<name>` checks the answers."""

    count: Callable[[int], int]
    """Length → number of different problems."""
    prompt: Callable[[int, int], str]
    """(length, number of the problem, from 0) → prompt. No two tasks have prompts of one form."""
    answer: Callable[[str], str | None]
    """Prompt → right answer; None if it is no prompt of this task."""

    def make(self, difficulty: int, rng: random.Random) -> tuple[str, str]:
        """Return (prompt, right answer) of a problem of this length.

        With `verify` it is the interface of a task of the user's.
        """
        text = self.prompt(difficulty, rng.randrange(self.count(difficulty)))
        return text, self.answer(text) or ""

    def verify(self, prompt: str, answer: str, reference: JsonObject) -> bool:
        """Return whether the answer is the one that the prompt asks for."""
        expected = self.answer(prompt)
        return expected is not None and composed_text(answer).strip() == expected

    def accepts(self, prompt: Prompt, text: str) -> bool:
        """Return whether the text is the answer that the prompt asks for."""
        return self.verify(prompt.text, text, prompt.reference)

    def stated_answer(self, prompt: Prompt) -> str:
        """Return the right answer, empty if the prompt is none of this task."""
        return self.answer(prompt.text) or ""


def _reverse_answer(prompt: str) -> str | None:
    match = re.fullmatch(r"([0-9]+)=", prompt)
    return match[1][::-1] if match else None


def _copy_answer(prompt: str) -> str | None:
    match = re.fullmatch(r"\(([0-9]+)\)=", prompt)
    return match[1] if match else None


def _addition_count(length: int) -> int:
    return int(10**length - _smallest_number(length)) ** 2


def _addition_prompt(length: int, number: int) -> str:
    smallest = _smallest_number(length)
    first, second = divmod(number, 10**length - smallest)
    return f"{smallest + first}+{smallest + second}="


def _addition_answer(prompt: str) -> str | None:
    # At most 400 digits: Python refuses to convert more than 4,300.
    match = re.fullmatch(r"([0-9]{1,400})\+([0-9]{1,400})=", prompt)
    if match is None:
        return None
    digits = str(int(match[1]) + int(match[2]))
    return digits[::-1]


def _smallest_number(length: int) -> int:
    """Return the smallest number that is written with so many digits."""
    return int(10 ** (length - 1)) if length > 1 else 0


BUILTIN_TASKS = {
    # `4711=` → `1174`
    "reverse": BuiltinTask(
        count=lambda length: int(10**length),
        prompt=lambda length, number: f"{number:0{length}d}=",
        answer=_reverse_answer,
    ),
    # `(4711)=` → `4711`
    "copy": BuiltinTask(
        count=lambda length: int(10**length),
        prompt=lambda length, number: f"({number:0{length}d})=",
        answer=_copy_answer,
    ),
    # `12+34=` → `64`: two numbers of equal length, the digits of the sum reversed (2502.01612).
    "addition": BuiltinTask(_addition_count, _addition_prompt, _addition_answer),
}
"""By the names of `BUILTIN_TASK_NAMES`, which a recipe gives them."""
