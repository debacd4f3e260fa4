"""Text of made-up words, as like or unlike as random draws are."""

from __future__ import annotations

import functools
import random


@functools.cache
def vocabulary() -> list[str]:
    """2,000 made-up words."""
    return [
        "".join(random.Random(number).choices("aeioulnrst", k=6))
        for number in range(2000)
    ]


def sentence(draw: random.Random, length: int = 18) -> str:
    """Text of made-up words, some of them frequent, as in a language."""
    words = vocabulary()
    return " ".join(words[int(2000 * draw.random() ** 2)] for _ in range(length))
