"""Verifier `choice`: the option that an answer names is the reference's, by letter or by text.

An option may be wrapped (`**B**`, `\\text{B}`, "Option B", `(B)`). An answer that names two
options, or that only begins with a letter ("A better one", "I don't know"), names none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from components.canonical import normalised_text
from components.contracts.rows import Prompt
from components.verifiers.final_answer import (
    after_answer_is,
    answer_part,
    boxed,
    hash_lines,
)
from components.verifiers.references import reference_text

# `\text{B}`, `\mathrm{B}`, `\boxed{B}`.
_COMMAND_WRAPPER = re.compile(
    r"\\(?:text|math)[a-z]{0,6}\s?\{([^{}]*)\}|\\f?boxed\s?\{([^{}]*)\}"
)
_MARKUP = re.compile(r"\*{1,3}|_{2,3}|`+|\\[()\[\]]|\$|\\[,;:! ]|</?[a-z]{1,6}>")
_QUOTES = "\"'“”‘’«»{}<> "
# "The correct option is (B)": what leads to a letter.
_LABEL = re.compile(
    r"(?:the\s+)?(?:correct\s+|right\s+|best\s+)?(?:option|choice|answer|letter|alternative)"
    r"(?:\s+(?:is|was))?\s*[:=]?\s*(?=[(\[]?[A-Za-z]\b)",
    re.IGNORECASE,
)
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
"""The letters and signs of ASCII as Chinese and Japanese texts have them."""
# `B`, `(B)`, `B.`: nothing but the letter.
_LETTER_ONLY = re.compile(r"[(\[]?([A-Za-z])[)\]]?[.,:;!?)]*")
# `(B) Paris`, `B. Paris`, `B - Paris`: the letter in front of its text. A dash needs a capital.
_LETTER_FIRST = re.compile(
    r"(?:[(\[]([A-Za-z])[)\]][.:,]?|([A-Za-z])[.:)])(?=\s|$)|([A-Z])(?=\s[-–—]\s)"
)
_CAPITAL_FIRST = re.compile(r"([A-Z])(?![\w'’])")
_WORDLIKE = frozenset("AI")
"""Letters that are words too: behind them stands nothing, or a reason."""
_REASON = re.compile(
    r"\s*(?:[.,:;!?)(\]–—-]|because\b|since\b|as\b|due\b|$)", re.IGNORECASE
)
_BECAUSE = re.compile(r"\s*,?\s*(?:because|since|as)\b", re.IGNORECASE)
# A and I are words as well: they are letters only before a sign or a verb.
_LETTER = r"(?:[B-HJ-Z](?![\w'’])|[AI](?=\s*(?:[.,;:!?)\]]|$|are\b|is\b|both\b)))"
# "and C", "or (C)", "/ C": a second option right behind the first.
_ANOTHER = re.compile(
    rf"\s*(?:(?i:\band\b|\bor\b|\bvs\b|\bversus\b)|[&/,])\s*(?:(?i:option)\s+)?[(\[]?{_LETTER}"
)
_LABELLED = re.compile(r"(?<!\w)[(\[]?([A-Z])[)\]](?!\w)")
_VERB = re.compile(
    r"\s(?:is|was|are|can|cannot|could|does|would|isn['’]t|seems|looks)\b"
)
"""Behind a letter: the text speaks about this option and does not choose it yet."""
_COMBINES = re.compile(r"\W*(?:both|all|none|either|neither)\b", re.IGNORECASE)
"""An option about options: "(D) Both (A) and (B)"."""
_ENDS = r"(?=\s*(?:[.,;:!?)]|$|because\b|since\b))"
# A letter in running text counts only where it can be nothing but an option.
_MENTIONED = re.compile(
    r"(?<![Nn]ot )[(\[]([A-Z])[)\]]|(?<![Nn]ot )\b(?:[Oo]ption|[Cc]hoice)\s+([A-Z])(?![\w'’])"
    rf"|\b(?:choose|chose|pick|picked|select|selected|go\swith)\s+([A-Z]){_ENDS}"
    r"|(?<!\w)([A-Z])\sis\s(?:the\s)?(?:correct|right|best|answer)\b"
)
_NO_ANSWER = re.compile(
    r"i\s(?:really\s)?(?:don'?t|don’t|do\snot|can'?t|can’t|cannot|am\snot)\b|(?:i'?m\s)?not\ssure\b"
    r"|no\sidea\b|unsure\b|unknown\Z",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s")


def accepts(prompt: Prompt, text: str) -> bool:
    """Return whether the text names the reference's option by its letter, or says its text."""
    reference = reference_text(prompt)
    letter = letter_of(reference)
    if letter and letter_of(text) == letter:
        return True
    option = _option_text(_final_part(reference))
    return bool(option) and option in _stated_texts(text)


def answer_key(text: str) -> str:
    """Return the letter of the option that a text names, else the text it ends with.

    Empty if that names two options or is no answer ("I don't know").
    """
    letter = letter_of(text)
    part = _final_part(text)
    if letter or _names_none(part):
        return letter
    return _option_text(part)


def group_keys(texts: Sequence[str]) -> list[str]:
    """Return the key of each answer; the key of an option's text is its letter, if that is known.

    Other answers tell it: "Paris" is "B" beside "B) Paris".
    """
    keys = [answer_key(text) for text in texts]
    letters_by_option: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        letter = letter_of(text)
        option = _option_text(_final_part(text))
        if letter and option and option != letter.casefold():
            letters_by_option[option].add(letter)
    letter_by_option: dict[str, str] = {}
    for option, letters in letters_by_option.items():
        # Answers that give one text two letters contradict each other: the text stays a text.
        if len(letters) == 1:
            letter_by_option[option] = letters.pop()
    return [letter_by_option.get(key, key) for key in keys]


def stated_answer(prompt: Prompt) -> str:
    """Return what the reference says in the end."""
    return _final_part(reference_text(prompt))


def letter_of(text: str) -> str:
    """Return the letter of the option that an answer names (upper case), or an empty string."""
    answer = answer_part(text)
    statements = _statements(answer)
    for statement in statements:
        if letter := _leading_letter(statement, is_stated=True):
            return letter
        if _names_none(statement):
            return ""
    return "" if statements else _unstated_letter(answer)


def _unstated_letter(answer: str) -> str:
    """Return the letter that an answer names without "the answer is" or a box."""
    lines = [line for line in map(_unwrapped, answer.split("\n")) if line]
    if not lines:
        return ""
    # A letter alone on the first or last line, with an explanation on the others.
    letters: set[str] = set()
    for line in (lines[0], lines[-1]):
        if match := _LETTER_ONLY.fullmatch(line):
            letters.add(match[1].upper())
    if letters:
        return letters.pop() if len(letters) == 1 else ""
    labels: set[str] = set()
    for line in lines:
        if match := _LETTER_FIRST.match(line):
            labels.add(match[0])
    # A text that repeats all options begins with the first one and has not chosen it.
    is_copy_of_options = len(labels) > 1
    letter = "" if is_copy_of_options else _leading_letter(lines[0], is_stated=False)
    return letter or _mentioned_letter(lines[-1])


def _statements(answer: str) -> list[str]:
    """Return the statements of an answer, without markup, the last one first.

    They stand behind `####`, else in a box, else behind "answer is".
    """
    for line in map(_unwrapped, hash_lines(answer)):
        # Any other line behind `####` is a heading.
        if not line:
            continue
        is_last = _unwrapped(answer).endswith(line)
        if is_last or _leading_letter(line, is_stated=False):
            return [line]
    if (content := boxed(answer)) is not None:
        return [_unwrapped(content)]
    return [_first_line(statement) for statement in after_answer_is(answer)]


def _first_line(text: str) -> str:
    """Return the first line with something on it, without markup."""
    for line in text.split("\n"):
        if plain := _unwrapped(line):
            return plain
    return ""


def _final_part(text: str) -> str:
    """Return the last statement of an answer, else all of the answer, without markup."""
    answer = answer_part(text)
    statements = [statement for statement in _statements(answer) if statement]
    return statements[0] if statements else _unwrapped(answer)


def _unwrapped(text: str) -> str:
    """Return a text on one line without markup, LaTeX wrappers and "Option" before a letter."""
    # Wrappers are nested: `\boxed{\textbf{(\text{B})}}` is three deep.
    for _ in range(3):
        text = _COMMAND_WRAPPER.sub(lambda match: match[1] or match[2] or "", text)
    text = _MARKUP.sub("", text)
    text = normalised_text(text).translate(_FULL_WIDTH)
    text = text.strip(_QUOTES)
    label = _LABEL.match(text)
    if label is None:
        return text
    option = text[label.end() :].strip(_QUOTES)
    # "Answer A question" begins like "Answer A": the label goes only before a letter with a sign.
    is_letter = _LETTER_ONLY.fullmatch(option) or _LETTER_FIRST.match(option)
    return option if is_letter else text


def _leading_letter(text: str, is_stated: bool) -> str:
    """Return the letter of the one option that a text begins with, or an empty string.

    Args:
        text: What is left of an answer without its wrappers.
        is_stated: The text follows "answer is" or stands in a box: a capital letter needs no sign
            behind it.
    """
    if only := _LETTER_ONLY.fullmatch(text):
        return only[1].upper()
    first = _LETTER_FIRST.match(text)
    if first and not _VERB.match(text, first.end()):
        letter = _letter_in(first).upper()
        following = text[first.end() :]
        return "" if _names_another(following, letter) else letter
    capital = None if first else _CAPITAL_FIRST.match(text)
    if capital is None:
        return _mentioned_letter(text) if is_stated or first else ""
    following = text[capital.end() :]
    if _ANOTHER.match(following):
        return ""
    # "A dog" and "I think" begin with a word; "A, because" and "A." begin with an option.
    is_letter = capital[1] not in _WORDLIKE or _REASON.match(following)
    is_chosen = (is_stated and is_letter) or _BECAUSE.match(following)
    return capital[1] if is_chosen else ""


def _names_another(following: str, letter: str) -> bool:
    """Return whether the sentence behind an option's letter names another option as well."""
    if _ANOTHER.match(following):
        return True
    sentence = _SENTENCE_END.split(following, maxsplit=1)[0]
    labels = {match[1] for match in _LABELLED.finditer(sentence)}
    return bool(labels - {letter}) and not _COMBINES.match(following)


def _names_none(part: str) -> bool:
    """Return whether a statement names two options, or says that there is no answer."""
    first = _LETTER_FIRST.match(part) or _CAPITAL_FIRST.match(part)
    if first and _ANOTHER.match(part, first.end()):
        return True
    letters = {_letter_in(match) for match in _MENTIONED.finditer(part)}
    return len(letters) > 1 or _NO_ANSWER.match(part) is not None


def _mentioned_letter(text: str) -> str:
    """Return the one option that the last sentence with an option names: `(B)` or "option B"."""
    for sentence in reversed(_SENTENCE_END.split(text)):
        letters = {_letter_in(match) for match in _MENTIONED.finditer(sentence)}
        if letters:
            return letters.pop() if len(letters) == 1 else ""
    return ""


def _letter_in(match: re.Match[str]) -> str:
    return str(next(filter(None, match.groups())))


def _stated_texts(text: str) -> set[str]:
    """Return the option texts that an answer may state: its final part, or that one's beginning."""
    part = _final_part(text)
    first_sentence = _SENTENCE_END.split(part, maxsplit=1)[0]
    return {_option_text(part), _option_text(first_sentence)}


def _option_text(text: str) -> str:
    """Return the text of an option without its letter, for comparison."""
    if label := _LETTER_FIRST.match(text):
        text = text[label.end() :]
    return text.strip(" .,!-–—").casefold()
