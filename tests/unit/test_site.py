"""The site of docs/: every page is in its menu, and the page of variables has all that are read."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
VARIABLE = re.compile(
    r'"((?:RATCHET|AWS|HF|OPENAI|KF_PIPELINES|MLFLOW|MODEL_REGISTRY|PROMETHEUS|HTTP|HTTPS|NO)_[A-Z0-9_]+)"'
)
BY_OTHERS = {"HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
"""Read by libraries: ours hands them on alone."""


def pages_in(menu: Any) -> Iterator[str]:
    if isinstance(menu, str):
        yield menu
    for item in (
        menu.values()
        if isinstance(menu, dict)
        else menu
        if isinstance(menu, list)
        else ()
    ):
        yield from pages_in(item)


def test_every_page_is_in_the_menu_once() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(pages_in(menu)) == sorted(pages)


def test_the_page_of_variables_has_all_that_are_read_and_no_other() -> None:
    page = (DOCS / "variables.md").read_text(encoding="utf-8")
    sources = [*(ROOT / "components").rglob("*.py"), ROOT / "pipeline.py"]
    read = {
        name
        for path in sources
        for name in VARIABLE.findall(path.read_text(encoding="utf-8"))
    }
    spans = re.findall(r"`([A-Z][A-Z0-9_]+)`", page)
    named = {name for name in spans if VARIABLE.fullmatch(f'"{name}"')}
    assert named == read | BY_OTHERS


@pytest.mark.parametrize(
    ("page", "text", "shown"),
    [
        ("a.md", "see [pipeline.py](../pipeline.py)", "see pipeline.py"),
        ("a.md", "see [data](data.md#files)", "see [data](data.md#files)"),
        ("recipes/a.md", "see [data](../data.md)", "see [data](../data.md)"),
        ("recipes/a.md", "[yaml](../../recipes/demo.yaml)", "yaml"),
        ("a.md", "[paper](https://arxiv.org/abs/2305.17493)", None),
    ],
)
def test_links_that_leave_the_pages_become_text(
    page: str, text: str, shown: str | None
) -> None:
    spec = importlib.util.spec_from_file_location("site_links", DOCS / "site_links.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    page_object = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    assert hook.on_page_markdown(text, page=page_object) == (
        text if shown is None else shown
    )
