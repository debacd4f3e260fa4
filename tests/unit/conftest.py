"""Fixtures of several files of unit tests."""

from __future__ import annotations

import pytest

from components.cli.cluster.kfp_api import Pipelines
from components.cli.cluster.kfp_calls import Access
from tests.doubles.kfp_api import Clock, KfpApi
from tests.unit.submissions import patience


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pipelines(kfp: KfpApi, clock: Clock) -> Pipelines:
    return Pipelines(Access(kfp.endpoint, "ml"), patience(clock))
