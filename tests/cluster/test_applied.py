"""Every overlay and component is accepted by a real API server, and applied again changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.conftest import overlay_in
from tests.cluster.server import Server
from tests.manifests.rendering import COMPONENTS, OVERLAYS, Json, composed


def changed_when_applied_again(server: Server, objects: tuple[Json, ...]) -> list[str]:
    """Apply objects twice; return those that the second time was not `unchanged` for."""
    first = server.apply_all(objects)
    assert len(first) == len(objects)
    again = server.apply_all(objects)
    return [f"{name} {word}" for name, word in again.items() if word != "unchanged"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_applied_again_changes_nothing(
    name: str, server: Server, new_namespace: Callable[[str], str], tmp_path: Path
) -> None:
    namespace = new_namespace(f"ratchet-{name}")
    assert (
        changed_when_applied_again(server, overlay_in(name, namespace, tmp_path)) == []
    )


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_applied_again_changes_nothing(
    name: str, server: Server, new_namespace: Callable[[str], str]
) -> None:
    objects = composed(name, namespace=new_namespace(f"ratchet-{name}"))
    if missing := server.missing_kinds(objects):
        release = server.request("GET", "/version").document["gitVersion"]
        pytest.skip(f"Kubernetes {release} does not know {missing[0]}")
    assert changed_when_applied_again(server, objects) == []


def test_an_overlay_needs_no_newer_kubernetes_than_the_page_says(
    server: Server,
) -> None:
    """The kinds of every overlay are served; the page names the oldest release."""
    page = (Path(__file__).parents[2] / "manifests" / "README.md").read_text()
    oldest = re.search(r"Kubernetes (\d+)\.(\d+) or newer", page)
    version = server.request("GET", "/version").document
    assert oldest, "the page names no release"
    assert (int(oldest[1]), int(oldest[2])) <= (
        int(version["major"]),
        int(version["minor"]),
    )
