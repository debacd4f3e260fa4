"""A ledger that is announced, servers that it is announced to, and what they hold of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from components.contracts.releases import BaseModelLine, Line
from components.contracts.state import RoundRecord
from components.contracts.summaries.evaluate import Estimate
from components.contracts.summaries.publish import Rival
from components.publish.announcing.announce import Outlet
from components.publish.announcing.ledger_view import Details, LedgerView
from components.publish.announcing.mlflow import Mlflow
from components.publish.announcing.model_registry import ModelRegistry
from components.runtime.context import Context
from components.runtime.ledger import append_line
from tests.doubles.cutting_relay import CuttingRelay
from tests.doubles.mlflow_server import MlflowServer
from tests.doubles.model_registry import ModelRegistryServer
from tests.unit.crafted import PLAN

NAME = "crafted"
STORE = "s3://bucket/campaigns"
TOKEN = "a-token-that-no-message-may-show"
Platform = Literal["model-registry", "mlflow"]
URL_VARIABLE = {"model-registry": "MODEL_REGISTRY_URL", "mlflow": "MLFLOW_TRACKING_URI"}
TOKEN_VARIABLE = {
    "model-registry": "MODEL_REGISTRY_TOKEN",
    "mlflow": "MLFLOW_TRACKING_TOKEN",
}


def release(number: int, **changes: Any) -> Line:
    """The n-th line of the ledger, a release."""
    rival = Rival(
        kind="base",
        name="base model",
        scores=Estimate(value=0.25, low=0.125, high=0.375, n=16),
        verdict="better",
        wins=8,
        losses=0,
        gain=0.5,
        p_value=0.001,
        level=0.025,
        why="8 won, 0 lost",
    )
    line = Line(
        name=NAME,
        number=number,
        action="release",
        version=f"r{number}-{number:012x}",
        prefix=f"models/{NAME}/r{number}-{number:012x}/",
        publish=f"publish/{number:064x}",
        publish_digest=f"{number:064x}",
        weights=f"{number:064x}",
        files={"model.safetensors": "0" * 64},
        run_id=f"crafted-run-{number}",
        state="decide/1",
        recipe="1" * 64,
        base=BaseModelLine(
            source="hf://org/base", prepared="prepare/1", digest="2" * 64
        ),
        split="vault",
        score=0.75,
        interval=(0.5, 0.875),
        rivals=(rival,),
        opening=None,
        predecessor=number - 1 or None,
        asked_by="ada on a machine",
        at=f"2026-11-30T00:00:{number:02d}Z",
    )
    return line.model_copy(update=changes)


def with_releases(context: Context, *lines: Line) -> Context:
    """Return a context whose store has these releases, each with its weights."""
    for line in lines:
        context.store.put_bytes(f"{line.prefix}model.safetensors", b"weights")
        assert append_line(context, line)
    return context


def rollback(number: int, target: Line) -> Line:
    """The n-th line of the ledger, which returns to an earlier one."""
    changes = {"number": number, "action": "rollback", "returns_to": target.number}
    return target.model_copy(update=changes)


def view_of(*lines: Line, store: str = STORE, name: str = NAME) -> LedgerView:
    """The ledger with these lines."""
    history = RoundRecord(
        round=0,
        verdict="promoted",
        why="the first",
        plan=PLAN,
        score=0.5,
        interval=(0.25, 0.75),
        overall=0.5,
        test_score=0.375,
        generated=8,
        accepted=6,
    )
    details = Details(
        license="apache-2.0", validation_score=0.5, test_score=0.625, rounds=(history,)
    )
    return LedgerView(name=name, store=store, lines=lines, details=lambda line: details)


class Server:
    """A platform behind a relay, and what it holds in a form that is the same for equal entries."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.server = (
            ModelRegistryServer() if platform == "model-registry" else MlflowServer()
        )
        self.relay = CuttingRelay(self.server.endpoint)
        self.environment: Mapping[str, str] = {
            URL_VARIABLE[platform]: self.relay.endpoint,
            TOKEN_VARIABLE[platform]: f"{TOKEN}\n",
        }

    def outlet(self, **variables: str) -> Outlet:
        """A new one, as a new process makes it."""
        environment = {**self.environment, **variables}
        if self.platform == "model-registry":
            return ModelRegistry(environment)
        return Mlflow(environment)

    def holds(self) -> object:
        """All entries, without ids that depend on their order."""
        if isinstance(self.server, ModelRegistryServer):
            return {
                kind: [
                    {
                        key: text
                        for key, text in entry.items()
                        if key not in ("id", "registeredModelId")
                    }
                    for entry in entries
                ]
                for kind, entries in self.server.entries.items()
            }
        runs = [{**one, "info": one["info"]["status"]} for one in self.server.runs]
        return self.server.models, self.server.versions, runs, self.server.experiments

    def close(self) -> None:
        self.relay.close()
        self.server.close()


@contextmanager
def serving(platform: Platform) -> Iterator[Server]:
    """Yield a server of the platform."""
    server = Server(platform)
    try:
        yield server
    finally:
        server.close()
