"""A namespace of the manifests admits the pods of this project, and refuses weakened ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.server import Server
from tests.cluster.weakened import WEAKENINGS, Weakening, pod, shapes, weakened


def test_every_pod_is_admitted(server: Server, installation: str) -> None:
    refusals = {}
    for shape in shapes():
        answer = server.create(pod(shape, installation))
        if answer.status != 201:
            refusals[shape.name] = answer.message
    assert refusals == {}
    assert len(shapes()) >= 12


@pytest.mark.parametrize("weakening", WEAKENINGS, ids=lambda weakening: weakening.path)
def test_a_weakened_pod_is_refused(
    weakening: Weakening,
    server: Server,
    installation: str,
    record_property: Callable[[str, object], None],
) -> None:
    admitted = []
    refused = 0
    for shape in shapes():
        spec = weakened(shape.spec, weakening)
        if spec is None:
            continue
        if server.create(pod(shape, installation, spec)).status == 201:
            admitted.append(shape.name)
        else:
            refused += 1
    assert admitted == []
    assert refused > 0
    record_property("mutants_refused", refused)
