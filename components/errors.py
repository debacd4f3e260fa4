"""The three kinds of expected failure and the exit status each one costs.

Anything that is not a RatchetError is a bug and keeps its traceback.
"""

from __future__ import annotations

import re
import sys
import traceback
from types import TracebackType
from typing import NoReturn

_PASSWORDS = re.compile(
    # hf://gpt2@main is a model of the hub without an organisation, and its revision.
    r"""(?<=://)(?<!hf://)(?:
        [^\s/@"'<>]+                                # user, or user:password
        | [^\s/:@"'<>]+:(?!\d+(?:/|$))[^\s@"'<>]+    # a secret key of S3 may hold a slash
    )(?=@)""",
    re.VERBOSE,
)


def without_passwords(text: str) -> str:
    """Return the text with `***` for the user and password of each address in it.

    Proxies, endpoints and mirrors come as addresses with credentials (HTTPS_PROXY, HF_ENDPOINT,
    OPENAI_BASE_URL), and libraries put whole addresses into their messages.
    """
    return _PASSWORDS.sub("***", text)


def text_of_bug(
    kind: type[BaseException], error: BaseException, frames: TracebackType | None
) -> str:
    """Return a traceback without the passwords of addresses."""
    text = "".join(traceback.format_exception(kind, error, frames))
    return without_passwords(text).rstrip("\n")


class RatchetError(Exception):
    """Base of expected failures. The message is one line: what happened, where, what to do."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        # Here, because messages go to logs, attempt records, reports and the UI.
        super().__init__(without_passwords(message))


class UserError(RatchetError):
    """The input is wrong (recipe, data, model, credentials): the user can mend it. Exit 2."""

    # As argparse ends after wrong usage.

    exit_code = 2


class OlderReceipt(UserError):
    """The store holds work of an older Ratchet, in a form that this one does not read."""


class Collected(UserError):
    """`gc` has deleted the object: no run that is kept needs it."""


class Corrupt(RatchetError):
    """Stored bytes are not what their receipt says. Exit 3."""

    exit_code = 3


class Missing(Corrupt):
    """An object that a receipt or a caller names is not in the store."""


class Transient(RatchetError):
    """The surroundings failed for now (network, a full queue). Exit 75.

    The same call may succeed later.
    """

    # EX_TEMPFAIL of BSD's sysexits.h.

    exit_code = 75


def explain_missing_package(name: str) -> NoReturn:
    """End a script that was started outside its environment with one line on how to set up."""
    print(
        f"error: this Python ({sys.executable}) has no {name}; run `make setup`, then"
        " .venv/bin/python pipeline.py; or `pip install .`, then `ratchet`",
        file=sys.stderr,
    )
    raise SystemExit(UserError.exit_code)


def one_line(text: object, max_characters: int | None = 200) -> str:
    """Return the message of an error, or a server's text, on one line.

    An error without a message is named by its type.

    Args:
        text: The error or the text.
        max_characters: What is longer is cut off; None keeps all.
    """
    line = " ".join(without_passwords(str(text)).split())
    # Escape sequences in a server's text could clear or recolour the terminal.
    printable = "".join(letter for letter in line if letter.isprintable())
    visible = printable[:max_characters]
    if not visible and isinstance(text, BaseException):
        return type(text).__name__
    return visible


def first_line(error: BaseException, max_characters: int = 200) -> str:
    """Return the first line of an error's message, or the name of its type if it has none."""
    # Libraries such as pyarrow and huggingface_hub append advice that fills a terminal.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:max_characters]
