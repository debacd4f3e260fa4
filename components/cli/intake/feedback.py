"""What people thought of an answer: a thumb, a mark, a correction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from components.prepare.row_values import Row, with_nested

FIELDS = ("feedback", "thumbs", "rating", "scores", "score", "value")
"""Fields that hold a verdict, where none is named."""
CORRECTIONS = (
    "correction",
    "corrected",
    "corrected_answer",
    "edited",
    "edited_response",
    "expected_output",
    "ideal",
)
"""Fields that hold the answer that a person would have liked."""
_GOOD = frozenset(
    {
        "up",
        "thumbs_up",
        "thumbsup",
        "👍",
        "like",
        "liked",
        "good",
        "positive",
        "yes",
        "true",
        "accepted",
    }
)
_BAD = frozenset(
    {
        "down",
        "thumbs_down",
        "thumbsdown",
        "👎",
        "dislike",
        "disliked",
        "bad",
        "negative",
        "no",
        "false",
    }
    | {"rejected"}
)
# Values that have one meaning on every scale that has them.
_PLAIN_MARKS = {1.0: True, 0.0: False, -1.0: False}


@dataclass(frozen=True)
class Feedback:
    """A person's verdict on an answer."""

    is_good: bool | None = None
    """None: there is no verdict, or none that is clear."""
    correction: str = ""
    flaw: str = ""
    """`unclear_feedback` or `feedback_disagrees`, where verdicts were given and do not tell."""


@dataclass(frozen=True)
class Scale:
    """How verdicts are read."""

    field: str = ""
    """Field that holds them; dots lead into a row. Empty: the usual names."""
    good_from: float | None = None
    """Smallest number that is a good mark. None: 1 is good, 0 and -1 are bad, others are unclear."""

    def read(self, row: Row) -> Feedback:
        """Return the feedback that a row holds."""
        row = with_nested(row, [self.field] if self.field else [])
        names = [self.field] if self.field else list(FIELDS)
        verdicts: set[bool | None] = set()
        correction = _correction_in(row)
        for name in names:
            value = row.get(name)
            verdicts.update(self._verdicts(value))
            correction = correction or _correction_in(value)
        if correction:
            # Who writes a better answer has judged.
            return Feedback(is_good=False, correction=correction)
        clear = verdicts - {None}
        if len(clear) > 1:
            return Feedback(flaw="feedback_disagrees")
        if clear:
            return Feedback(is_good=clear.pop())
        return Feedback(flaw="unclear_feedback" if verdicts else "")

    def _verdicts(self, value: object) -> Iterator[bool | None]:
        """Yield each verdict that a value holds; None for one that is unclear."""
        if value is None or value == "":
            return
        if isinstance(value, Mapping):
            for name in FIELDS:
                yield from self._verdicts(value.get(name))
        elif isinstance(value, list):
            for item in value:
                yield from self._verdicts(item)
        elif isinstance(value, bool):
            yield value
        elif isinstance(value, int | float):
            yield self._of_number(float(value))
        else:
            yield self._of_word(str(value))

    def _of_number(self, number: float) -> bool | None:
        if self.good_from is not None:
            return number >= self.good_from
        return _PLAIN_MARKS.get(number)

    def _of_word(self, word: str) -> bool | None:
        plain = word.strip().lower().replace("-", "_").replace(" ", "_")
        if plain in _GOOD | _BAD:
            return plain in _GOOD
        try:
            return self._of_number(float(plain))
        except ValueError:
            return None


def _correction_in(value: object) -> str:
    if isinstance(value, list):
        return next((text for text in map(_correction_in, value) if text), "")
    if not isinstance(value, Mapping):
        return ""
    texts = (value.get(name) for name in CORRECTIONS)
    return next((text for text in texts if isinstance(text, str) and text.strip()), "")
