"""Checker code that came with a campaign: a zip file by its digest, unpacked when it is first used."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from components.errors import Corrupt, UserError

MAX_BYTES = 16 * 2**20
"""Size of all files of a bundle."""
_zip_files: dict[str, Path] = {}
_folders: dict[str, tempfile.TemporaryDirectory[str]] = {}


def register(digest: str, path: Path) -> None:
    """Note where the bundle with this SHA-256 is. A step does it for its campaign."""
    _zip_files[digest] = path


def folder_of(digest: str) -> Path:
    """Return a folder with the files of a registered bundle, which ends with this process.

    Raises:
        UserError: No such bundle is registered.
        Corrupt: The bundle is no zip file of a bounded size.
    """
    if digest not in _zip_files:
        raise UserError(
            "the recipe's own verifier came without its code; begin the run with `run` or "
            "`submit`, which send the code along (data.checker_code)"
        )
    if digest not in _folders:
        folder = tempfile.TemporaryDirectory(prefix="ratchet-checker-")
        _unpack(_zip_files[digest], Path(folder.name))
        _folders[digest] = folder
    return Path(_folders[digest].name)


def _unpack(path: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as bundle:
            # Before anything is written: a small file may unpack to a large one.
            if sum(entry.file_size for entry in bundle.infolist()) > MAX_BYTES:
                raise Corrupt(f"{path}: a bundle of more than {MAX_BYTES} bytes")
            # It strips roots and `..` from names.
            bundle.extractall(folder)
    except zipfile.BadZipFile as error:
        raise Corrupt(f"{path}: no bundle of checker code ({error})") from None
