"""Finished runs that several tests look at; each is made once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.cli.local.task_server import TaskServer, task_server, warm_is_possible
from components.contracts.recipe_file import set_key
from tests.pipeline.campaigns import Place, Run, recipe, write_data

MakePlace = Callable[..., Place]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the data files. One for all: their URIs are part of the recipe, and so of every
    digest."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[TaskServer]:
    """What starts the tasks of all campaigns that no test kills: one Python that has torch loaded.

    The campaigns of tests/security, and those that a test kills, start one each, as users do.
    """
    with task_server(warm=warm_is_possible()) as shared:
        yield shared


@pytest.fixture(scope="session")
def make_place(
    data: Path, tmp_path_factory: pytest.TempPathFactory, server: TaskServer
) -> MakePlace:
    """A function that gives a new working folder with the recipe, changed at dotted keys."""

    def make(changes: dict[str, Any] | None = None, **settings: Any) -> Place:
        document = copy.deepcopy(recipe(data))
        for key, value in (changes or {}).items():
            set_key(document, key, value)
        return Place(
            tmp_path_factory.mktemp("campaign"),
            document,
            **{"server": server, **settings},
        )

    return make


@pytest.fixture(scope="session")
def whole(make_place: MakePlace) -> tuple[Place, Run]:
    """Two rounds of two, without reaching the goal: what the other runs are compared with."""
    place = make_place()
    return place, place.run("--rounds", "2")
