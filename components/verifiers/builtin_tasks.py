"""Verifiers `task/reverse`, `task/copy` and `task/addition`: judged from the prompt alone."""

from __future__ import annotations

import re

from components.canonical import composed_text
from components.contracts.rows import Prompt


def accepts(prompt: Prompt, text: str) -> bool:
    """Return whether the text is the answer that the prompt asks for."""
    expected = builtin_answer(prompt.text)
    return expected is not None and composed_text(text).strip() == expected


def builtin_answer(prompt_text: str) -> str | None:
    """Return the answer to a prompt of the tasks reverse (`4711=`), copy (`(4711)=`) or addition
    (`12+34=`, the sum's digits reversed as in 2502.01612), or None if it is none of them."""
    if match := re.fullmatch(r"([0-9]+)=", prompt_text):
        return match[1][::-1]
    if match := re.fullmatch(r"\(([0-9]+)\)=", prompt_text):
        return match[1]
    if match := re.fullmatch(r"([0-9]{1,400})\+([0-9]{1,400})=", prompt_text):
        return str(int(match[1]) + int(match[2]))[::-1]
    return None
