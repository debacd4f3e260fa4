"""Tests that need a CUDA device: `make gpu`. Without one they are skipped, and say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip everything here, and nothing elsewhere, where there is no device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
