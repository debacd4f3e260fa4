"""Text and LaTeX as tokens that numbers are read from: digits, operators, words.

What belongs to a number (`10{,}000`, `1.5e3`, `5 million`) and what makes one unreadable (a root, a
variable, a colon) is told apart here; `number_reader` puts the tokens together.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from components.verifiers.number_vocabulary import (
    BREAK_COMMANDS,
    COMPARISON_COMMANDS,
    EQUALS_COMMANDS,
    LAYOUT_COMMANDS,
    OPERATOR_COMMANDS,
    PERCENT_WORDS,
    SCALES,
    SYMBOL_WORDS,
    TEXT_COMMANDS,
    UNIT_LETTERS,
    UNITS,
    plain_spelling,
)

MAX_DIGITS = 400
"""Longest literal with a value. Python's own conversion is quadratic in the number of digits."""
MAX_EXPONENT = 999
"""Largest exponent with a value: `1e999999999` would fill the memory."""


class Kind(enum.Enum):
    """Kinds of tokens, by the part they play in a number."""

    NUMBER = enum.auto()
    SYMBOL = enum.auto()
    """A variable, function or sign that no plain number contains."""
    WORD = enum.auto()
    """A word or a unit, with the digits that belong to it (`cm2`, `km^2`)."""
    OPERATOR = enum.auto()
    EQUALS = enum.auto()
    COMPARISON = enum.auto()
    OPEN = enum.auto()
    CLOSE = enum.auto()
    FRACTION = enum.auto()
    """`\\frac`, whose two groups follow."""
    PERCENT = enum.auto()
    SCALE = enum.auto()
    """A word that multiplies the number before it: million, tenths."""
    COMMA = enum.auto()
    BREAK = enum.auto()
    """The end of a line or sentence, or an arrow: no number goes on behind it."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a text."""

    kind: Kind
    text: str
    spaced: bool
    """White space stands before it."""
    value: Fraction | None = None
    """Value of a NUMBER or SCALE. A NUMBER without one is unreadable: `1.2.3`, or too long."""
    comma_decimal: bool = False
    """A NUMBER such as `3,5`, which inside brackets is a pair."""

    @property
    def begins_number(self) -> bool:
        """True for a literal, and for a fraction whose parts follow."""
        return self.kind in (Kind.NUMBER, Kind.FRACTION)


_THOUSANDS = r"[1-9]\d{0,2}(?: \d{3})+(?:[.,]\d+)?(?![.,'_]?\d)"
_DIGITS = r"\d+(?:[.,'_]\d+)*|(?<![\w.])\.\d+"
# The order matters: the first alternative that matches wins.
_TOKEN = re.compile(
    "|".join(
        (
            # Calculator annotations (`<<48/2=24>>`), tags, and what only lays out a formula.
            r"(?P<skip><<[^<>\n]*>>|</?[A-Za-z][^<>\n]{0,60}>|\\(?:begin|end)\{\w{0,20}\*?\}"
            r"|\\[()\[\]]|\\[hv]space\*?\{[^{}]{0,20}\})",
            r"(?P<gap>[ \t\r\f\v]+|\\[ ,;:!]|~|\\q?quad(?![A-Za-z]))",
            r"(?P<fraction>\\[dtc]?frac(?![A-Za-z]))",
            r"(?P<repeating>(?P<head>\d+\.\d*)\\(?:overline|bar)\s?\{(?P<period>\d+)\})",
            rf"(?P<number>(?:{_THOUSANDS}|{_DIGITS})(?:[eE][+-]?\d{{1,4}}(?!\w|[.,]\d))?)",
            r"(?P<ellipsis>\.{2,}|…|\\[lc]?dots(?![A-Za-z]))",
            r"(?P<arrow>[=-]>|[→⇒⟹∴]|\\\\)",
            r"(?P<dash>—|--+)",
            r"(?P<equals>:?={1,3}|[≈≅≡])",
            r"(?P<comparison>[<>]=?|!=|[≤≥≠∈∼])",
            # `1.5x10^3` and `3 x 4`; behind digits and before them an x is a sign.
            r"(?P<times>(?<=[\d)}%])[xX](?=[\d.(\\])|(?<=[\d)}%] )[xX](?= [\d.(\\-]))",
            # Of Markdown's stars only those between two operands, alike on both sides.
            r"(?P<power>(?<=[\d)}])\*\*(?=[-(\d{])|(?<=[\d)}] )\*\*(?= [-(\d{]))",
            r"(?P<star>(?<=[\w)}\]%])\*(?=[\w({\\.$-])|(?<=[\w)}\]%$] )\*(?= [\w({\\.$-]))",
            r"(?P<compound>[A-Za-z]{2,}-\d[\dA-Za-z]*)",
            r"(?P<name>(?P<letters>[A-Za-zΑ-Ωα-ωµ]+(?:'[A-Za-z]+)?)"
            r"(?P<script>(?:\d[A-Za-z0-9]*)?(?:_(?:\{[^{}\n]{0,20}\}|[A-Za-z0-9]+))?"
            r"(?:\^(?:\{[^{}\n]{0,30}\}|-?[A-Za-z0-9]+))?))",
            r"(?P<word>[^\W\d_]+)",
            r"(?P<command>\\[A-Za-z]+)",
            r"(?P<percent>\\?%)",
            r"(?P<open>\\?\{|[(\[])",
            r"(?P<close>\\?\}|[)\]])",
            r"(?P<subscript>(?<=\d)_(?=[\d{]))",
            r"(?P<stop>\n|[;?]|#+|\.(?!\d|\(|\\(?:overline|bar|dot)))",
            r"(?P<exclamation>!)",
            r"(?P<colon>:)",
            r"(?P<ampersand>(?<= )&(?= ))",
            r"(?P<comma>,)",
            r"(?P<product>×)",
            r"(?P<operator>[-+/^÷±√])",
            r"(?P<symbol>[.|∞∂∑∫∏])",
            r"(?P<other>.)",
        )
    ),
    re.DOTALL,
)

_ENGLISH = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_INDIAN = re.compile(r"[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?")
_EUROPEAN = re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+,\d+|[1-9]\d{0,2}(?:\.\d{3}){2,}")
_SPACED = re.compile(r"[1-9]\d{0,2}([ '_])\d{3}(?:\1\d{3})*(?:[.,]\d+)?")
_DECIMAL = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_COMMA_DECIMAL = re.compile(r"0,\d+|\d+,(?!\d{3}\Z)\d+")

_NUMERIC_ENDS = frozenset({Kind.NUMBER, Kind.CLOSE, Kind.SCALE, Kind.PERCENT})


def tokens_of(text: str, formula: bool = False) -> list[Token]:
    """Return the tokens of a text in order; white space and markup leave none.

    Args:
        text: Plain text, Markdown or LaTeX.
        formula: The text is the content of a formula or a box: single letters are variables and `!`
            is a factorial.
    """
    tokens: list[Token] = []
    # For each open brace: whether it only holds the argument of `\text`, and is no token itself.
    is_text_brace: list[bool] = []
    text_depth = 0
    plain = plain_spelling(text)
    spaced = False
    text_follows = False
    for match in _TOKEN.finditer(plain):
        group = str(match.lastgroup)
        if group == "gap":
            spaced = True
            continue
        if group == "open" and match[0] == "{":
            is_text_brace.append(text_follows)
            if text_follows:
                text_follows = False
                text_depth += 1
                continue
        elif (
            group == "close"
            and match[0] == "}"
            and is_text_brace
            and is_text_brace.pop()
        ):
            text_depth -= 1
            continue
        text_follows = group == "command" and match[0][1:] in TEXT_COMMANDS
        token = _token(group, match, tokens, spaced, formula and not text_depth)
        if token is not None:
            tokens.append(token)
            spaced = False
    return tokens


def literal_value(literal: str) -> Fraction | None:
    """Return the value of digits with their separators and exponent, or None where it is unclear.

    Groups of three are thousands by comma, space, apostrophe or underscore, and by point where a
    decimal comma or a second group shows that it is no decimal point. A comma before any other
    count of digits is a decimal comma.
    """
    mantissa, _, exponent = literal.lower().partition("e")
    power = int(exponent or 0)
    if len(literal) > MAX_DIGITS or abs(power) > MAX_EXPONENT:
        return None
    # `1,234` is English, `1,23` can only be a decimal comma, and `1.234` is a decimal point.
    if _ENGLISH.fullmatch(mantissa) or _INDIAN.fullmatch(mantissa):
        digits = mantissa.replace(",", "")
    elif _EUROPEAN.fullmatch(mantissa):
        digits = mantissa.replace(".", "").replace(",", ".")
    elif grouped := _SPACED.fullmatch(mantissa):
        digits = mantissa.replace(grouped[1], "").replace(",", ".")
    elif _DECIMAL.fullmatch(mantissa) or _COMMA_DECIMAL.fullmatch(mantissa):
        digits = mantissa.replace(",", ".")
    else:
        return None
    return Fraction(digits) * Fraction(10) ** power


def _token(
    group: str, match: re.Match[str], tokens: list[Token], spaced: bool, formula: bool
) -> Token | None:
    """Return the token that a match stands for, None if it stands for nothing."""
    text = match[0]
    previous = tokens[-1] if tokens else None
    following = match.string[match.end() : match.end() + 1]
    match group:
        case "number":
            return _number(text, spaced)
        case "repeating":
            value = _repeating(match["head"], match["period"])
            return Token(Kind.NUMBER, text, spaced, value)
        case "compound" | "word":
            return Token(Kind.WORD, text.lower(), spaced)
        case "name":
            return _name(match, previous, spaced, formula)
        case "command":
            return _command(text[1:], spaced)
        case "ellipsis":
            # `0.333…` is cut off; behind a whole number the dots end a sentence.
            is_cut_off = previous is not None and "." in previous.text and not spaced
            return Token(Kind.SYMBOL if is_cut_off else Kind.BREAK, text, spaced)
        case "exclamation":
            # "It is 5!" ends a sentence, and 5! goes on.
            ends_sentence = not formula and not following.strip("*_\"' \n")
            return Token(Kind.BREAK if ends_sentence else Kind.SYMBOL, text, spaced)
        case "colon":
            return _colon(match, spaced)
        case "dash":
            return _dash(previous, spaced, is_glued=spaced and following.isdigit())
        case "other" | "skip":
            return None
        case _:
            kind, sign = _SIGNS[group]
            return Token(kind, sign or text, spaced)


_SIGNS: dict[str, tuple[Kind, str]] = {
    "fraction": (Kind.FRACTION, ""),
    "arrow": (Kind.BREAK, ""),
    "equals": (Kind.EQUALS, ""),
    "comparison": (Kind.COMPARISON, ""),
    "times": (Kind.OPERATOR, "*"),
    "power": (Kind.OPERATOR, "^"),
    "star": (Kind.OPERATOR, "*"),
    "product": (Kind.OPERATOR, "*"),
    "percent": (Kind.PERCENT, ""),
    "open": (Kind.OPEN, ""),
    "close": (Kind.CLOSE, ""),
    "subscript": (Kind.SYMBOL, ""),
    "stop": (Kind.BREAK, ""),
    "comma": (Kind.COMMA, ""),
    "ampersand": (Kind.WORD, "and"),
    "operator": (Kind.OPERATOR, ""),
    "symbol": (Kind.SYMBOL, ""),
}
"""Group of `_TOKEN` → its kind, and its text if that is another than was matched."""


def _number(literal: str, spaced: bool) -> Token:
    comma_decimal = _COMMA_DECIMAL.fullmatch(literal) is not None
    return Token(Kind.NUMBER, literal, spaced, literal_value(literal), comma_decimal)


def _repeating(head: str, period: str) -> Fraction | None:
    """Return the value of a repeating decimal: 1/6 for head `0.1` and period `6`."""
    if len(head) + len(period) > MAX_DIGITS:
        return None
    _, _, decimals = head.partition(".")
    nines = 10 ** len(period) - 1
    tail = Fraction(int(period), nines * 10 ** len(decimals))
    return Fraction(head.rstrip(".")) + tail


def _name(
    match: re.Match[str], previous: Token | None, spaced: bool, formula: bool
) -> Token | None:
    """Return the token of a name: a unit or a word, or else a variable or function."""
    letters = match["letters"]
    script = match["script"]
    word = letters.lower()
    follows_number = previous is not None and previous.kind in _NUMERIC_ENDS
    if follows_number and not script:
        if word in PERCENT_WORDS:
            return Token(Kind.PERCENT, word, spaced)
        # "2 millions", "3 tenths": the plural scales as well.
        scale = SCALES.get(word) or SCALES.get(word.removesuffix("s"))
        if scale is not None:
            return Token(Kind.SCALE, word, spaced, scale)
    following = match.string[match.end() : match.end() + 40]
    # `f(2)` is a value of f, and not 2.
    is_call = following.startswith("(")
    if is_call or word in SYMBOL_WORDS or set(letters) <= set("xyz"):
        return Token(Kind.SYMBOL, letters, spaced)
    # `14h30` is a time. `5m2` and `5m3` are areas and volumes.
    is_power = script in ("2", "3")
    if follows_number and not spaced and script.isdecimal() and not is_power:
        return Token(Kind.SYMBOL, letters, spaced)
    # `H2O` is a substance, `x2` a variable.
    is_single = len(letters) == 1
    if is_single and letters.isupper() and script[-1:].isalpha():
        return Token(Kind.WORD, word, spaced)
    if is_single:
        is_word = _is_unit_letter(letters, previous, formula and not spaced) or (
            not script
            and not formula
            and _is_article(letters, following, spaced, previous)
        )
        return Token(Kind.WORD if is_word else Kind.SYMBOL, word, spaced)
    # `5ab` is a product, `5km` is none.
    is_glued = follows_number and (formula or not spaced)
    is_product = is_glued and len(letters) == 2 and letters not in UNITS
    return Token(Kind.SYMBOL if is_product else Kind.WORD, word, spaced)


def _is_unit_letter(letter: str, previous: Token | None, is_factor: bool) -> bool:
    if is_factor or previous is None or letter not in UNIT_LETTERS:
        return False
    return previous.kind in _NUMERIC_ENDS or previous.text in ("/", "degrees")


def _is_article(
    letter: str, following: str, spaced: bool, previous: Token | None
) -> bool:
    """Return whether a single a or I is a word: words or nothing follow, and no operator."""
    if letter not in "aAI" or not (spaced or previous is None):
        return False
    return re.match(r"\s+[\w$\"']|\s*[.,;!?]?\s*\Z", following) is not None


def _command(name: str, spaced: bool) -> Token | None:
    if name in LAYOUT_COMMANDS or name in TEXT_COMMANDS:
        return None
    if name in BREAK_COMMANDS:
        return Token(Kind.BREAK, name, spaced)
    if name in OPERATOR_COMMANDS:
        return Token(Kind.OPERATOR, OPERATOR_COMMANDS[name], spaced)
    if name in EQUALS_COMMANDS:
        return Token(Kind.EQUALS, name, spaced)
    if name in COMPARISON_COMMANDS:
        return Token(Kind.COMPARISON, name, spaced)
    return Token(Kind.SYMBOL, name, spaced)


def _colon(match: re.Match[str], spaced: bool) -> Token:
    """Return the token of a colon: an operator in `14:30` and `3 : 4`, else a break."""
    start, end = match.span()
    preceding = match.string[max(0, start - 2) : start]
    following = match.string[end : end + 1]
    is_glued = preceding[-1:].isdigit() and following.isdigit()
    is_ratio = is_glued or (spaced and preceding[:1].isdigit() and following == " ")
    return Token(Kind.OPERATOR if is_ratio else Kind.BREAK, ":", spaced)


def _dash(previous: Token | None, spaced: bool, is_glued: bool) -> Token:
    """Return the token of a long dash: a minus where only a sign can stand, else a break."""
    begins = previous is None or previous.kind in (Kind.EQUALS, Kind.OPEN, Kind.BREAK)
    if begins or is_glued:
        return Token(Kind.OPERATOR, "-", spaced)
    return Token(Kind.BREAK, "—", spaced)


def phrases_of(tokens: list[Token]) -> Iterator[list[Token]]:
    """Yield the tokens between breaks, phrase by phrase; none is empty."""
    phrase: list[Token] = []
    for token in tokens:
        if token.kind is not Kind.BREAK:
            phrase.append(token)
        elif phrase:
            yield phrase
            phrase = []
    if phrase:
        yield phrase
