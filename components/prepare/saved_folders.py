"""Folders that `Dataset.save_to_disk` of the library `datasets` wrote."""

from __future__ import annotations

import json
from pathlib import Path

from components.errors import UserError

MAX_NAMES_LISTED = 6


def arrow_files(folder: Path, uri: str) -> list[Path]:
    """Return the Arrow files of a saved data set, in the order of its rows.

    Raises:
        UserError: The folder holds several data sets, or other files: the message names what can
            be read.
    """
    splits = _document(folder / "dataset_dict.json").get("splits")
    if isinstance(splits, list):
        names = ", ".join(str(name) for name in splits)
        raise UserError(
            f"{uri} is a folder of several data sets ({names}); give each one its own source, "
            f"`uri: {uri.rstrip('/')}/{splits[0] if splits else 'train'}`, with the `split` that "
            "it is for"
        )
    state = _document(folder / "state.json")
    files = state.get("_data_files")
    if not isinstance(files, list) or not files:
        raise UserError(f"{uri} is a folder; name one file in it{_examples(folder)}")
    if state.get("_indices_data_files"):
        raise UserError(
            f"{uri}: its rows are chosen by an index beside them; call flatten_indices() and save "
            "it again"
        )
    # Names alone: a path in somebody's file must not lead out of the folder.
    paths = [folder / Path(str(file.get("filename"))).name for file in files]
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"{uri}: {path.name} is missing, which its state.json names"
            )
    return paths


def _document(path: Path) -> dict[str, object]:
    """Return a JSON object, empty where there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _examples(folder: Path) -> str:
    names = sorted(
        path.name for path in folder.iterdir() if not path.name.startswith(".")
    )
    if not names:
        return " (it is empty)"
    more = ", …" if len(names) > MAX_NAMES_LISTED else ""
    return f" ({', '.join(names[:MAX_NAMES_LISTED])}{more})"
