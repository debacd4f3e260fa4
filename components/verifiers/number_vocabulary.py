"""Words, commands and signs that number text is written with, and one spelling for each sign."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from components.canonical import composed_text


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SCALES = {
    "hundred": Fraction(100),
    "thousand": Fraction(1000),
    "lakh": Fraction(10**5),
    "million": Fraction(10**6),
    "crore": Fraction(10**7),
    "billion": Fraction(10**9),
    "trillion": Fraction(10**12),
    "halve": Fraction(1, 2),
    "third": Fraction(1, 3),
    "fifth": Fraction(1, 5),
    "tenth": Fraction(1, 10),
    "hundredth": Fraction(1, 100),
    "thousandth": Fraction(1, 1000),
    "millionth": Fraction(1, 10**6),
}
"""By singular. Not quarters and dozens, which are also things that are counted."""
PERCENT_WORDS = frozenset({"percent", "pct"})
SYMBOL_WORDS = _words(
    "pi sqrt root log ln lg exp sin cos tan cot sec csc squared cubed factorial infinity inf nan "
    "mod"
)
UNIT_LETTERS = frozenset("mgshlLJWVNKCFA")
"""Single letters that are units behind a number, in running text; others are variables."""
UNITS = _words(
    "km cm mm nm um dm kg mg ug lb lbs oz ft in yd mi ml mL cl cL dl dL kL hr hrs ms ns us Hz eV "
    "kW MW GW GB MB KB kB TB kJ MJ kN Pa dB st nd rd th am pm AM PM pt qt cc mol min sec"
)
"""Known by heart because `5ab` without a space is a product of variables unless it is a unit."""
COMPOUND_UNITS = _words(
    "years year months month weeks week days day hours hour hr h minutes minute min feet foot ft "
    "yards yd miles m pounds pound lb lbs stone dollars dollar euros pesos rupees gallons quarts"
)
"""Units that another number may follow: "5 feet 6 inches" is neither 5 nor 6."""
WORDS_BEFORE_SIGN = _words(
    "is are was were be equal equals to get gets got give gives gave yield yields make makes "
    "obtain than as of at by from with in approximately about and or"
)
"""Words that a spaced minus may follow; behind other words it may be a dash."""
LEADING_WORDS = _words(
    "the a an about approximately approx roughly exactly precisely around nearly almost equal "
    "equals to is are be therefore thus hence then so simply just only number value total sum of "
    "final result it its x equation"
)
"""Words that may stand between "answer is" and the number."""
LAYOUT_COMMANDS = _words(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle limits boxed fbox "
    "space thinspace enspace null"
)
"""Commands that change how things look and not what they mean."""
TEXT_COMMANDS = _words(
    "text textbf textit textrm textsf textup textnormal mathrm mathbf mathit mathsf mathnormal "
    "operatorname mbox hbox rm bf it bm boldsymbol emph underline"
)
"""Commands whose argument is read as if it stood there without them; within braces, words."""
BREAK_COMMANDS = _words(
    "therefore because implies Rightarrow Longrightarrow rightarrow longrightarrow to iff "
    "Leftrightarrow qed blacksquare square Box checkmark newline"
)
OPERATOR_COMMANDS = {
    "times": "*",
    "cdot": "*",
    "ast": "*",
    "div": "÷",
    "pm": "±",
    "mp": "±",
    "colon": ":",
}
EQUALS_COMMANDS = frozenset({"approx", "equiv", "simeq", "cong", "doteq", "coloneqq"})
COMPARISON_COMMANDS = _words(
    "lt gt le ge leq geq leqslant geqslant ne neq in notin sim propto mid"
)


def _vulgar_fraction(character: str) -> str:
    value = Fraction(unicodedata.numeric(character)).limit_denominator(10)
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


_CHARACTERS = str.maketrans(
    {
        **{
            character: _vulgar_fraction(character)
            for character in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞↉"
        },
        **dict.fromkeys("−–‒‐‑﹣－➖", "-"),
        **dict.fromkeys("⋅·∙✕✖＊∗", "×"),
        **dict.fromkeys("⁄∕／", "/"),
        **dict.fromkeys("％﹪٪", "%"),
        **dict.fromkeys("’‘ʼ′＇", "'"),
        **dict.fromkeys(
            "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009", " "
        ),
        **dict.fromkeys("\u200a\u202f\u205f\u3000", " "),
        "―": "—",
        "＋": "+",
        "＝": "=",
        "＾": "^",
        "（": "(",
        "）": ")",
        "［": "[",
        "］": "]",
        "．": ".",
        "٫": ".",
        "٬": ",",
        "，": ", ",
        "、": ", ",
        "：": ":",
        "。": ". ",
        "；": "; ",
        "！": "! ",
        "？": "? ",
        "°": " degrees ",
        "º": " degrees ",
    }
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_UNIT_ARGUMENT = r"(?:\\[a-z]{2,8}\{[A-Za-z ~]{1,12}\}|[A-Za-z]{1,12})(?:\^\{?\d\}?)?"
_REWRITTEN: tuple[tuple[re.Pattern[str], str], ...] = (
    # Separators of thousands that LaTeX needs so as not to break them up.
    (re.compile(r"(?<=\d)(?:\{,\}|,\\!)(?=\d{3})"), ","),
    (re.compile(r"(?<=\d)(?:\\[,;:! ]|~|\{ \})(?=\d{3}(?!\d))"), " "),
    # `\frac12`, `\frac1{2}` and `\frac{1}2` take one digit each.
    (re.compile(r"\\[dtc]?frac\s?(\d)\s?(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\[dtc]?frac\s?(\d)\s?(?=\{)"), r"\\frac{\1}"),
    (re.compile(r"(\\[dtc]?frac\s?\{[^{}]{0,80}\})\s?(\d)"), r"\1{\2}"),
    # A fraction of units, as `5 \frac{m}{s}`.
    (
        re.compile(
            rf"\\[dtc]?frac\s?\{{({_UNIT_ARGUMENT})\}}\s?\{{({_UNIT_ARGUMENT})\}}"
        ),
        r" \1/\2",
    ),
    # Powers of units stay with their unit: `\text{ km}^2`, `km$^2$`.
    (
        re.compile(r"(\\[a-z]{2,12}\{[A-Za-z ~\\]{1,20})\}(\^(?:\{-?\d{1,2}\}|\d))"),
        r"\1\2}",
    ),
    (re.compile(r"(?<=[A-Za-z])\$\^(\{-?\d{1,2}\}|\d)\$"), r"^\1"),
    # `USD5` would be read as one name.
    (re.compile(r"\b(USD|EUR|GBP|INR|Rs|US|CAD|AUD)(?=\d)"), r"\1 "),
    # A degree is a unit: 90° is 90.
    (re.compile(r"\^\s?(?:\\circ\b|\{\s?\\circ\s?\})|\\degree\b"), " degrees "),
    # Mixed numbers in words: "2 and a half", "2 and 1/2".
    (re.compile(r"(?<=\d)\s+and\s+(?:a|one)\s+half\b", re.IGNORECASE), r"\\frac{1}{2}"),
    (
        re.compile(r"(?<=\d)\s+and\s+(?:a|one)\s+third\b", re.IGNORECASE),
        r"\\frac{1}{3}",
    ),
    (
        re.compile(r"(?<=\d)\s+and\s+(?:a|one)\s+quarter\b", re.IGNORECASE),
        r"\\frac{1}{4}",
    ),
    (re.compile(r"(?<=\d)\s+and\s+three\s+quarters\b", re.IGNORECASE), r"\\frac{3}{4}"),
    (re.compile(r"(?<=\d)\s+and\s+(?=\d+/\d)", re.IGNORECASE), " "),
    # Signs in words, before numbers alone: "negative" is an adjective too.
    (
        re.compile(
            r"(?<!\\)\b(?:minus|negative)(\s+\}?|\s?\}\s?)(?=[\d.$€£\\])", re.IGNORECASE
        ),
        r"\1 -",
    ),
    (re.compile(r"(?<!\\)\bplus\s+(?=[\d.$€£\\])", re.IGNORECASE), " + "),
    (
        re.compile(
            r"(?<!\\)\b(?:times|multiplied by)\s+(?=[\d.$€£\\(])", re.IGNORECASE
        ),
        " * ",
    ),
    (re.compile(r"(?<!\\)\bdivided by\s+(?=[\d.$€£\\(])", re.IGNORECASE), " ÷ "),
    (re.compile(r"(?<!\\)\broots?\s+of\s+(?=[\d.\\(])", re.IGNORECASE), " √"),
    (re.compile(r"\bper\s?cent\b", re.IGNORECASE), "percent"),
)


def plain_spelling(text: str) -> str:
    """Return the text with one spelling of each sign, so that the patterns stay readable."""
    if not text.isascii():
        # NFC leaves `²` and `½` as they are, so they can still be told from `2` and `1/2`.
        text = composed_text(text).translate(_CHARACTERS)
        text = re.sub(
            "[⁰¹²³⁴-⁹⁺⁻]+", lambda run: f"^{{{run[0].translate(_SUPERSCRIPTS)}}}", text
        )
        text = re.sub(
            "[₀-₉]+", lambda run: f"_{{{run[0].translate(_SUBSCRIPTS)}}}", text
        )
        text = re.sub(
            r"(?![0-9])\d", lambda digit: str(unicodedata.decimal(digit[0])), text
        )
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    return text
