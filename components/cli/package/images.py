"""Images of the steps, as docker/images.toml names them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from components.cli.json_documents import Json
from components.errors import UserError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def image_of_each_step(
    file: Path, steps: Sequence[str], *, gpu: bool
) -> dict[str, str]:
    """Return step → image, by digest where one is recorded.

    Args:
        file: A TOML file with `[steps]` (step → family) and `[families.<name>]`.
        steps: Names of all steps.
        gpu: Take a family's image for GPUs where it has one.

    Raises:
        UserError: The file cannot be read, or lacks a key, which is named.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    family_of_step = document.get("steps", {})
    families = document.get("families", {})
    images = {}
    for step in steps:
        family = str(family_of_step.get(step, ""))
        if family not in families:
            raise UserError(
                f"{file}: steps.{step} is {family!r}, and there is no "
                f"[families.{family or '…'}]; add it"
            )
        images[step] = _reference(file, families[family], f"families.{family}", gpu)
    return images


def _reference(file: Path, entry: Json, key: str, gpu: bool) -> str:
    """Return `image@digest` or `image:tag` of a family; `key` is its place in the file."""
    if gpu and "gpu" in entry:
        return _reference(file, entry["gpu"], f"{key}.gpu", gpu=False)
    image = str(entry.get("image", ""))
    tag = str(entry.get("tag", ""))
    digest = str(entry.get("digest", ""))
    if not image or not (tag or digest):
        raise UserError(f"{file}: {key} needs `image` and a `tag` or a `digest`")
    # A digest is known once a registry has the image; on this machine alone it has a tag.
    if not digest:
        return f"{image}:{tag}"
    if not _DIGEST.fullmatch(digest):
        raise UserError(
            f"{file}: {key}.digest is {digest!r}; it must be sha256: and 64 hexadecimal digits"
        )
    return f"{image}@{digest}"
