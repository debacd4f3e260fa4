"""Fixtures of several files of unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from components.cli.cluster.kfp_api import Pipelines
from components.cli.cluster.kfp_calls import Access
from components.report.page import build_page
from components.report.runs import load_run
from components.report.views import RunView
from components.runtime.context import Context
from components.storage.store import open_store
from tests.conftest import context_in
from tests.doubles.kfp_api import Clock, KfpApi
from tests.doubles.openai_api import OpenAiApi
from tests.unit.crafted import recipe_of
from tests.unit.decisions import Campaign
from tests.unit.handmade import whole_campaign
from tests.unit.submissions import patience


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pipelines(kfp: KfpApi, clock: Clock) -> Pipelines:
    return Pipelines(Access(kfp.endpoint, "ml"), patience(clock))


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """A whole campaign, for the tests that only read it."""
    folder = tmp_path_factory.mktemp("campaign")
    context = context_in(folder, open_store((folder / "store").as_uri(), {}))
    return load_run(context, whole_campaign(context).run_id, examples=12)


@pytest.fixture(scope="module")
def page(view: RunView) -> str:
    """The page of that campaign."""
    return build_page(view)


@pytest.fixture
def endpoint() -> Iterator[OpenAiApi]:
    """A stand-in of a server of models, on a port of its own."""
    server = OpenAiApi()
    yield server
    server.close()


@pytest.fixture
def campaign(context: Context) -> Campaign:
    """A campaign whose rounds are decided on made-up results."""
    return Campaign(context, recipe_of())
