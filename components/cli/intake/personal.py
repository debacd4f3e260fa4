"""What looks personal or secret in a text, found by patterns and replaced by its kind.

Patterns find what has a form: addresses of mail and network, telephone, card and account numbers,
keys. Names and postal addresses have none. Searched by RE2, in time proportional to the text.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from typing import Any

import re2

Redact = Callable[[str], str]
"""Returns a text without what nobody should see."""


def _is_card(text: str) -> bool:
    """Return whether the digits have the checksum of card numbers (ISO/IEC 7812, Luhn)."""
    digits = [int(character) for character in text if character.isdigit()]
    # A row of one digit has the checksum too, and is no card.
    if len(set(digits)) == 1:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """Return whether the characters have the checksum of account numbers (ISO 13616, mod 97)."""
    compact = text.replace(" ", "")
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def _is_public_address(text: str) -> bool:
    """Return whether it is an address of the internet: those of a house network name nobody."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _is_telephone(text: str) -> bool:
    # E.164 allows 15 digits; shorter ones than 9 are room and order numbers.
    return 9 <= sum(character.isdigit() for character in text) <= 15


def _always(text: str) -> bool:
    return True


Kind = tuple[str, str, Callable[[str], bool]]
"""(name, pattern, whether a match is one)."""

# Keys before numbers: a key may hold what looks like a telephone number.
KINDS: tuple[Kind, ...] = (
    (
        "SECRET",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----",
        _always,
    ),
    (
        "SECRET",
        r"\b(?:sk|pk|rk)-[A-Za-z0-9_\-]{16,}|\bAKIA[0-9A-Z]{16}\b|\bgh[opsu]_[A-Za-z0-9]{30,}"
        r"|\bgithub_pat_\w{22,}|\bglpat-[\w\-]{20,}|\bxox[abprs]-[\w\-]{10,}|\bAIza[\w\-]{35}"
        r"|\bhf_[A-Za-z0-9]{30,}|\beyJ[\w\-]{8,}\.eyJ[\w\-]{8,}\.[\w\-]+",
        _always,
    ),
    ("SECRET", r"(?i)\bbearer [\w\-.=~+/]{20,}", _always),
    ("SECRET", r"://[^/\s:@]+:[^/\s@]+@", _always),
    (
        "EMAIL",
        r"[\p{L}\p{N}._%+\-]+@[\p{L}\p{N}\-]+(?:\.[\p{L}\p{N}\-]+)*\.\p{L}{2,}",
        _always,
    ),
    ("IBAN", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", _is_iban),
    ("CARD", r"\b\d(?:[ \-]?\d){12,18}\b", _is_card),
    ("SSN", r"\b\d{3}-\d{2}-\d{4}\b", _always),
    ("IP", r"\b\d{1,3}(?:\.\d{1,3}){3}\b", _is_public_address),
    ("IP", r"(?i)\b[0-9a-f]{1,4}(?::[0-9a-f]{0,4}){2,7}\b", _is_public_address),
    ("PHONE", r"\+\d[\d ().\-/]{6,20}\d\b", _is_telephone),
    ("PHONE", r"\(\d{2,5}\) ?\d{3,4}[ \-]?\d{3,4}\b", _is_telephone),
    ("PHONE", r"\b\d{3}[\-.]\d{3}[\-.]\d{4}\b", _is_telephone),
    ("PHONE", r"\b0\d{2,4}[ /\-]\d{2,4}(?:[ \-]?\d{2,4}){1,3}\b", _is_telephone),
)
_COMPILED = [(name, re2.compile(pattern), is_one) for name, pattern, is_one in KINDS]


class Redaction:
    """Replaces what looks personal, and counts it."""

    def __init__(
        self, *, by_pattern: bool = True, own_function: Redact | None = None
    ) -> None:
        """Say what is replaced.

        Args:
            by_pattern: Whether KINDS are.
            own_function: A function of the user's, which has each text first.
        """
        self._kinds = _COMPILED if by_pattern else []
        self._own_function = own_function
        self.counts: Counter[str] = Counter()
        """Kind → what was replaced; `own`: texts that the user's function changed."""

    def text(self, text: str) -> str:
        """Return a text with `[EMAIL]` in place of an address, and so on."""
        if self._own_function is not None:
            changed = self._own_function(text)
            self.counts["own"] += changed != text
            text = changed
        for name, pattern, is_one in self._kinds:
            text = self._without(text, name, pattern, is_one)
        return text

    def value(self, value: Any) -> Any:
        """Return a JSON value with every text in it redacted, but for roles and names of fields."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {
                name: item if name in ("role", "type") else self.value(item)
                for name, item in value.items()
            }
        return value

    def _without(
        self, text: str, name: str, pattern: Any, is_one: Callable[[str], bool]
    ) -> str:
        pieces: list[str] = []
        end = 0
        for match in pattern.finditer(text):
            if is_one(match[0]):
                pieces += [text[end : match.start()], f"[{name}]"]
                end = match.end()
                self.counts[name] += 1
        return "".join([*pieces, text[end:]])
