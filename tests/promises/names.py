"""S2: no name or key leads out of its folder, and no URI out of the configured store."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from components.errors import RatchetError, UserError
from components.runtime.context import Context
from components.runtime.receipts import ref_of_uri
from components.storage import keys
from tests.promises.counting import Case

HOSTILE = (
    "..",
    ".",
    "",
    "/",
    "//",
    "/etc/passwd",
    "../up",
    "../../../../etc/passwd",
    "a/../../b",
    "a/./b",
    "a//b",
    "a/",
    "/a",
    "~/x",
    "a\x00b",
    "a\nb",
    "a\rb",
    "\x1b[31m",
    "..\\up",
    "C:\\x",
    "%2e%2e/x",
    "..%2fup",
    "a" * 5000,
    "\u202eup",
    "\ud800",
    "a b",
    "$(touch x)",
    "`x`",
    "a;b",
    "a|b",
    "-rf",
    ".hidden",
    "..a",
    "a..b",
    "a..",
    "CON",
    "a:b",
    "\uff0e\uff0e/up",
    "\u2024\u2024/up",
    "file:///etc/passwd",
)
MAKERS: dict[str, Callable[[str], str]] = {
    "part": keys.part,
    "relative path": keys.relative_path,
    "receipt": lambda name: keys.receipt_key(name, "key"),
    "attempt": lambda name: keys.attempt_key("run", name, "1-1"),
    "run": lambda name: keys.run_key("run", name),
    "model": lambda name: keys.model_prefix(name, "1"),
    "foreign path": keys.foreign_path,
}
URIS = (
    "s3://other/steps/train/abc.json",
    "file:///etc/steps/train/abc.json",
    "file:///etc/passwd",
    "http://example.org/steps/train/abc.json",
    "{root}/../other/steps/train/abc.json",
    "{root}/steps/../../steps/train/abc.json",
    "{root}/steps/train/../../../x.json",
    "{root}/steps/train/%2e%2e.json",
    "{root}x/steps/train/abc.json",
    "{root}/steps/train/abc.json?versionId=1",
    "{root}/steps/train/a/b.json",
    "{root}/steps//abc.json",
    "{root}/steps/train/.json",
    "",
    "steps/train/abc.json",
    "{root}/objects/ab/abc",
)


def cases(context: Context, folder: Path) -> Iterator[Case]:
    """Yield each hostile name for each kind of key, for writing, and hostile URIs of receipts."""
    for (kind, make), name in itertools.product(MAKERS.items(), HOSTILE):
        yield Case(f"{kind} of {name[:30]!r}", partial(_check_name, folder, make, name))
    for uri in URIS:
        full = uri.replace("{root}", context.store.root)
        yield Case(f"URI {uri!r}", partial(_check_uri, context, full))


def _check_name(folder: Path, make: Callable[[str], str], name: str) -> str:
    try:
        key = make(name)
    except UserError:
        return ""
    inside = (folder / key).resolve()
    if not inside.is_relative_to(folder.resolve()) or inside == folder.resolve():
        return f"{key!r} leads out"
    return ""


def _check_uri(context: Context, uri: str) -> str:
    try:
        ref = ref_of_uri(context, uri)
    except RatchetError:
        return ""
    return f"was taken for {ref}"
