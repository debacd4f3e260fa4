"""Checks of an answer: one function per name in `Prompt.verifier`.

`verify` says right or wrong; `answer_key` gives the normalised final answer that votes and
duplicates are counted by. Neither raises on what a model wrote, and neither runs it: answers that a
scorer would evaluate as code are let through only if they consist of characters that cannot name or
call anything.
"""

from __future__ import annotations

import functools
import json
import re
import tokenize
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from components.contracts.rows import Prompt
from components.errors import UserError
from components.math_process import MathProcess

MAX_ANSWER_CHARACTERS = 20_000
"""Longer answers are wrong: no task here has one, and every verifier's time stays bounded."""
MAX_REGEX_CHARACTERS = 512
"""Longest pattern and longest answer of the `regex` verifier: bounds backtracking."""
MAX_DIGITS = 400

_NUMBER = re.compile(
    r"(?<![0-9.)])([-+−]?)\$?([-+−]?)([0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)?(\.[0-9]+)?(?:[eE]([-+]?[0-9]{1,3})(?![0-9]))?"
    r"(?:\s?/\s?([0-9]+))?\s?\\?(%)?"
)
_FRAC = re.compile(r"\\[dt]?frac\{\s*(-?[0-9]+)\s*\}\{\s*([0-9]+)\s*\}")
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_ANSWER_IS = re.compile(r"answer(?:\s+is)?\s*[:=]?\s*", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LETTER_ONLY = re.compile(r"\(?([A-Za-z])\)?[.:)]?")
_LETTER_FIRST = re.compile(r"(?:\(([A-Za-z])\)|([A-Za-z])[.:)])(?:\s|$)")
_LETTER_ANYWHERE = re.compile(r"\(([A-Z])\)")
_NESTED_REPEAT = re.compile(r"[*+}][^()]*\)\s*[*+{]")
_HUGE_EXPONENT = re.compile(r"[eE][-+]?[0-9]{4,}")

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
    "composite": None,
}
"""reasoning-gym scorers that evaluate the answer as Python → what an answer may consist of; None:
not to be used."""

_MATH = MathProcess()

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
"""What reasoning-gym scorers raise on text they cannot parse; the answer is then wrong."""


def verify(prompt: Prompt, text: str) -> bool:
    """Whether `text` answers the prompt. Never raises on any text; UserError if the prompt names no
    known verifier."""
    verifier = _VERIFIERS.get(prompt.verifier)
    if verifier is None:
        raise UserError(
            f"prompt {prompt.id}: unknown verifier {prompt.verifier!r} (known: {', '.join(_VERIFIERS)})"
        )
    return len(text) <= MAX_ANSWER_CHARACTERS and verifier(prompt, text)


def answer_key(prompt: Prompt, text: str) -> str:
    """The normalised final answer of `text`: equal keys are the same answer. Empty if it holds no
    answer."""
    match prompt.verifier:
        case "numeric":
            number = final_number(text)
            return "" if number is None else str(number[0])
        case "choice":
            return _letter(text) or _squeeze(_final(text)).casefold()
        case "reasoning_gym":
            return _squeeze(_tagged(text))
        case "math":
            final = _expression(text)
            return str(final_number(final)[0]) if _is_number(final) else final  # type: ignore[index]
        case _:
            return _squeeze(text)


def reference_answer(prompt: Prompt) -> str:
    """The answer that a prompt's verifier holds for right, in words and without the way to it;
    empty if there is none (a regular expression is no answer)."""
    entry = prompt.reference.get("entry")
    answer = entry.get("answer") if isinstance(entry, dict) else prompt.reference.get("answer")
    text = "" if answer is None else str(answer).strip()
    match prompt.verifier:
        case "regex":
            return ""
        case "task/reverse" | "task/copy" | "task/addition":
            return builtin_answer(prompt.text) or ""
        case "numeric":
            final, number = _squeeze(_final(text)), final_number(text)
            if number is None:
                return ""
            return final if _is_number(final) else f"{number[0]}{'%' * number[1]}"
        case "math":
            return _expression(text)
        case "choice":
            return _squeeze(_final(text))
        case _:
            return text


def scorer_is_safe(name: str) -> bool:
    """False for a reasoning-gym task whose scorer would evaluate arbitrary text of the model as
    code."""
    return _EVALUATED.get(name, _ARITHMETIC) is not None


def pattern_problem(pattern: str) -> str:
    """Why this text cannot be the reference of the `regex` verifier; empty if it can."""
    if len(pattern) > MAX_REGEX_CHARACTERS:
        return f"longer than {MAX_REGEX_CHARACTERS} characters"
    if _NESTED_REPEAT.search(pattern):
        return "a repeat inside a repeat, which can take for ever"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"not a regular expression ({error})"
    return ""


def builtin_answer(prompt_text: str) -> str | None:
    """The right answer to a prompt of the tasks reverse (`4711=`), copy (`(4711)=`) or addition
    (`12+34=`, the sum's digits reversed as in 2502.01612), read off the prompt alone. None if it is
    none of them."""
    if found := re.fullmatch(r"([0-9]+)=", prompt_text):
        return found[1][::-1]
    if found := re.fullmatch(r"\(([0-9]+)\)=", prompt_text):
        return found[1]
    if found := re.fullmatch(r"([0-9]{1,400})\+([0-9]{1,400})=", prompt_text):
        return str(int(found[1]) + int(found[2]))[::-1]
    return None


def final_number(text: str) -> tuple[Fraction, bool] | None:
    """The number an answer ends with, and whether it is a percentage.

    Looked for after the last `####`, in the last `\\boxed{}`, after the last "answer is", else the last number of the
    text. Reads signs, thousands commas, `$`, decimals, exponents, a/b, \\frac{a}{b}; not mixed numbers (1 1/2).
    """
    text = _FRAC.sub(r"\1/\2", text[-MAX_ANSWER_CHARACTERS:])
    if "####" in text:
        return _number(text.rpartition("####")[2], last=False)
    if boxed := _BOXED.findall(text):
        return _number(boxed[-1], last=True)
    parts = _ANSWER_IS.split(text)
    if len(parts) > 1 and (number := _number(parts[-1], last=False)) is not None:
        return number
    return _number(text, last=True)


def _number(text: str, *, last: bool) -> tuple[Fraction, bool] | None:
    found = None
    for match in _NUMBER.finditer(text):
        value = _fraction(match)
        if value is not None:
            found = (value, match[7] is not None)
            if not last:
                break
    return found


def _fraction(match: re.Match[str]) -> Fraction | None:
    sign, inner_sign, whole, decimals, exponent, denominator, _ = match.groups()
    if whole is None and decimals is None:
        return None
    digits = (whole or "0").replace(",", "") + (decimals or "")
    if (
        len(digits) > MAX_DIGITS
        or len(denominator or "") > MAX_DIGITS
        or not int(denominator or "1")
    ):
        return None
    value = Fraction(digits) * Fraction(10) ** int(exponent or 0) / int(denominator or "1")
    return -value if (sign in ("-", "−")) != (inner_sign in ("-", "−")) else value


def _numeric(prompt: Prompt, text: str) -> bool:
    expected, given = final_number(_reference(prompt)), final_number(text)
    if expected is None or given is None:
        return False
    if expected[0] == given[0]:
        return True
    # 50% and 0.5 are the same answer; 0.5% and 50% are not.
    percent, plain = (expected, given) if expected[1] else (given, expected)
    return percent[1] and not plain[1] and percent[0] / 100 == plain[0]


def _exact(prompt: Prompt, text: str) -> bool:
    return bool(prompt.reference) and _squeeze(text) == _squeeze(_reference(prompt))


def _math(prompt: Prompt, text: str) -> bool:
    """Equal as mathematics: 1/2 and 0.5, x^2-1 and (x-1)(x+1), sets in any order."""
    reference = _expression(_reference(prompt))
    if not reference:
        return False
    if _is_number(reference) and _numeric(prompt, text):
        return True
    return _MATH.equal(reference, _expression(text))


def _expression(text: str) -> str:
    """What an answer ends with: the last boxed expression, what stands after #### or "answer is",
    else all of it."""
    final = _squeeze(_final(text)).rstrip(".")
    return final.removeprefix("$").removesuffix("$") if final.count("$") == 2 else final


def _is_number(text: str) -> bool:
    found = _NUMBER.fullmatch(_FRAC.sub(r"\1/\2", text))
    return found is not None and _fraction(found) is not None


def _choice(prompt: Prompt, text: str) -> bool:
    reference = _reference(prompt)
    letter = _letter(reference)
    if letter and _letter(text) == letter:
        return True
    option, given = _option(reference), _option(_final(text))
    return bool(option) and given == option


def _regex(prompt: Prompt, text: str) -> bool:
    pattern, answer = _reference(prompt), text.strip()
    if not pattern or len(answer) > MAX_REGEX_CHARACTERS or pattern_problem(pattern):
        return False
    return re.fullmatch(pattern, answer) is not None


def _builtin(prompt: Prompt, text: str) -> bool:
    expected = builtin_answer(prompt.text)
    return expected is not None and text.strip() == expected


def _reasoning_gym(prompt: Prompt, text: str) -> bool:
    name, answer = str(prompt.reference["name"]), _tagged(text)
    allowed = _EVALUATED.get(name)
    if (
        name in _EVALUATED and (allowed is None or not allowed.fullmatch(answer))
    ) or _HUGE_EXPONENT.search(answer):
        return False
    scorer = _scorer(name, json.dumps(prompt.reference.get("config", {}), sort_keys=True))
    try:
        return float(scorer(answer, prompt.reference["entry"])) >= 1.0
    except _SCORER_ERRORS:
        return False


@functools.lru_cache(maxsize=64)
def _scorer(name: str, config: str) -> Callable[[str, dict[str, Any]], float]:
    import reasoning_gym

    scorer: Callable[[str, dict[str, Any]], float] = reasoning_gym.create_dataset(
        name, seed=0, size=1, **json.loads(config)
    ).score_answer
    return scorer


def _reference(prompt: Prompt) -> str:
    return str(prompt.reference.get("answer", ""))


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def _tagged(text: str) -> str:
    """What stands between the last <answer> tags, else all of it."""
    found: list[str] = _TAGGED.findall(text)
    return (found[-1] if found else text).strip()


def _final(text: str) -> str:
    """The part of an answer that states the choice."""
    if "####" in text:
        return text.rpartition("####")[2]
    if boxed := _BOXED.findall(text):
        return str(boxed[-1])
    return _ANSWER_IS.split(text)[-1]


def _letter(text: str) -> str:
    """The letter of the chosen option (upper case), empty if none is named."""
    final = _final(text).strip()
    if found := _LETTER_ONLY.fullmatch(final):
        return found[1].upper()
    if found := _LETTER_FIRST.match(final):
        return (found[1] or found[2]).upper()
    if final != text.strip() and (found := re.match(r"([A-Z])\b(?!')", final)):
        return found[1]
    letters = _LETTER_ANYWHERE.findall(final)
    return str(letters[-1]) if letters else ""


def _option(text: str) -> str:
    """The text of an option without its letter, for comparison."""
    text = _squeeze(text)
    return (
        _LETTER_FIRST.sub("", text, count=1).strip(" .").casefold()
        if _LETTER_FIRST.match(text)
        else text.strip(" .").casefold()
    )


_VERIFIERS: dict[str, Callable[[Prompt, str], bool]] = {
    "exact": _exact,
    "numeric": _numeric,
    "math": _math,
    "choice": _choice,
    "regex": _regex,
    "task/reverse": _builtin,
    "task/copy": _builtin,
    "task/addition": _builtin,
    "reasoning_gym": _reasoning_gym,
}
