"""Releases in MLflow 3: a run with scores, a model version, and the alias of the one in force.

By its REST API 2.0, because the image that publishes has no mlflow.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from components.canonical import JsonObject
from components.contracts.releases import Line
from components.contracts.state import RoundRecord
from components.errors import UserError
from components.publish.announcing.ledger_view import Details, LedgerView, scores_of
from components.publish.announcing.platform_api import (
    Access,
    Answer,
    PlatformApi,
    Refused,
)

PATH = "/api/2.0/mlflow"
ALIAS = "champion"
VERSION_TAG = "ratchet.version"
"""Tag of a model version: its name in the ledger, as MLflow itself counts versions."""
STORE_TAG = "ratchet.store"
RELEASE_TAG = "ratchet.release"
"""Tag of a run: digest of the receipt of the release, which no other release has."""
MAX_BATCH_METRICS = 1000
"""Metrics that one request to MLflow may log."""
DEFAULT_EXPERIMENT = "ratchet"


class Tag(Answer):
    """A tag of an entry."""

    key: str
    value: str = ""


class Model(Answer):
    """A registered model."""

    tags: tuple[Tag, ...] = ()

    def tag(self, key: str) -> str:
        """Return a tag; empty if there is none of that key."""
        return next((tag.value for tag in self.tags if tag.key == key), "")


class FoundModel(Answer):
    """Answer of registered-models/get."""

    registered_model: Model


class Version(Answer):
    """A model version."""

    version: int
    """Its number, as MLflow counts."""


class FoundVersion(Answer):
    """Answer to a question for an alias."""

    model_version: Version


class FoundVersions(Answer):
    """Answer of model-versions/search, which leaves an empty list out."""

    model_versions: tuple[Version, ...] = ()


class RunInfo(Answer):
    """The head of a run."""

    run_id: str


class Run(Answer):
    """A run."""

    info: RunInfo


class FoundRuns(Answer):
    """Answer of runs/search, which leaves an empty list out."""

    runs: tuple[Run, ...] = ()


class Experiment(Answer):
    """An experiment."""

    experiment_id: str


class FoundExperiment(Answer):
    """Answer of experiments/get-by-name."""

    experiment: Experiment


class Mlflow:
    """Enters a run and a model version for each release, and moves the alias `champion`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        workspace = environment.get("MLFLOW_WORKSPACE", "").strip()
        self._environment = environment
        self._entered: list[str] = []
        self._api = PlatformApi(
            Access(
                title="MLflow",
                url_variable="MLFLOW_TRACKING_URI",
                url=environment.get("MLFLOW_TRACKING_URI", "").strip(),
                key_variable="MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD",
                token=environment.get("MLFLOW_TRACKING_TOKEN", "").strip(),
                user=environment.get("MLFLOW_TRACKING_USERNAME", "").strip(),
                password=environment.get("MLFLOW_TRACKING_PASSWORD", "").strip(),
                headers={"X-MLFLOW-WORKSPACE": workspace} if workspace else {},
            )
        )

    def bring_up_to_date(self, view: LedgerView) -> list[str]:
        """Enter what is missing, the alias last; return what was entered."""
        self._entered = []
        self._enter_model(view)
        numbers = {line.version: self._version(view, line) for line in view.releases}
        self._move_alias(view, numbers[view.version_in_force])
        return self._entered

    def _enter_model(self, view: LedgerView) -> None:
        """Enter the registered model if there is none.

        Raises:
            UserError: It shows the ledger of another store.
        """
        document: JsonObject = {
            "name": view.name,
            "description": f"Released by Ratchet; the alias {ALIAS} is the release in force.",
            "tags": _tags({STORE_TAG: view.store}),
        }
        answer, is_new = self._api.found_or_made(
            lambda: self._api.found(
                f"{PATH}/registered-models/get", FoundModel, name=view.name
            ),
            f"{PATH}/registered-models/create",
            lambda: document,
        )
        if is_new:
            self._entered.append(f"registered model {view.name}")
        store = answer.registered_model.tag(STORE_TAG)
        if store and store != view.store:
            raise UserError(
                f"MLflow has a model {view.name!r} of another store ({store}); give this campaign "
                "another publish.name"
            )

    def _version(self, view: LedgerView, line: Line) -> str:
        """Return MLflow's number of a release, entered if there is none."""
        number, is_new = self._api.found_or_made(
            lambda: self._found_version(view, line),
            f"{PATH}/model-versions/create",
            lambda: self._version_document(view, line),
        )
        if is_new:
            self._entered.append(f"version {line.version}")
        return number

    def _version_document(self, view: LedgerView, line: Line) -> JsonObject:
        """Return the document of a new version, after all that it rests on was entered."""
        details = view.details(line)
        tags = {
            VERSION_TAG: line.version,
            STORE_TAG: view.store,
            "ratchet.run": line.run_id,
            "ratchet.base": line.base.source,
            "ratchet.license": details.license,
            "ratchet.receipt": line.publish,
        }
        return {
            "name": view.name,
            "source": view.uri(line),
            # The version comes after its run: where it is there, the run is whole.
            "run_id": self._run_with_scores(view, line, details),
            "description": f"Release {line.number}, made by {line.run_id} from {line.base.source}",
            "tags": _tags(tags),
        }

    def _found_version(self, view: LedgerView, line: Line) -> str | None:
        """Return MLflow's number of a release; None if there is none."""
        # MLflow lets two announcements at the same time enter it twice: both take the first.
        answer = self._api.get(
            f"{PATH}/model-versions/search",
            FoundVersions,
            filter=f"name = '{view.name}' AND tags.`{VERSION_TAG}` = '{line.version}'",
        )
        numbers = [version.version for version in answer.model_versions]
        return str(min(numbers)) if numbers else None

    def _run_with_scores(self, view: LedgerView, line: Line, details: Details) -> str:
        """Return the id of the MLflow run of a release, with all scores in it."""
        injected = self._environment.get("MLFLOW_RUN_ID", "").strip()
        # Kubeflow Pipelines begins a run for each task; it is about what this task released.
        is_own = bool(injected) and line is view.releases[-1]
        run_id = injected if is_own else self._begun_run(view, line)
        milliseconds = _milliseconds(line)
        metrics: list[JsonValue] = [
            # The time of the release: logged twice, it is the same point of the same curve.
            {"key": name, "value": value, "timestamp": milliseconds, "step": step}
            for name, value, step in _points(line, details)
        ]
        parameters = {
            "ratchet.run": line.run_id,
            "ratchet.version": line.version,
            "ratchet.base": line.base.source,
            "ratchet.recipe": line.recipe,
        }
        for first in range(0, len(metrics), MAX_BATCH_METRICS):
            batch = metrics[first : first + MAX_BATCH_METRICS]
            self._api.post(
                f"{PATH}/runs/log-batch", {"run_id": run_id, "metrics": batch}
            )
        self._api.post(
            f"{PATH}/runs/log-batch",
            {
                "run_id": run_id,
                "params": _tags(parameters),
                "tags": _tags({RELEASE_TAG: line.publish_digest}),
            },
        )
        if not is_own:
            self._api.post(
                f"{PATH}/runs/update",
                {"run_id": run_id, "status": "FINISHED", "end_time": milliseconds},
            )
        return run_id

    def _begun_run(self, view: LedgerView, line: Line) -> str:
        """Return the id of the run of a release, begun if there is none."""
        experiment = self._experiment()
        release = line.publish_digest
        document: JsonObject = {
            "experiment_id": experiment,
            "run_name": f"{line.run_id} {line.version}",
            "start_time": _milliseconds(line),
            "tags": _tags({RELEASE_TAG: release, "ratchet.run": line.run_id}),
        }
        run_id, _ = self._api.found_or_made(
            lambda: self._found_run(experiment, release),
            f"{PATH}/runs/create",
            lambda: document,
        )
        return run_id

    def _found_run(self, experiment: str, release: str) -> str | None:
        search: JsonObject = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{RELEASE_TAG}` = '{release}'",
            "max_results": 1,
        }
        answer = self._api.search(f"{PATH}/runs/search", FoundRuns, search)
        return answer.runs[0].info.run_id if answer.runs else None

    def _experiment(self) -> str:
        """Return the id of the experiment, entered if there is none."""
        name = (
            self._environment.get("MLFLOW_EXPERIMENT_NAME", "").strip()
            or DEFAULT_EXPERIMENT
        )
        experiment, _ = self._api.found_or_made(
            lambda: self._found_experiment(name),
            f"{PATH}/experiments/create",
            lambda: {"name": name},
        )
        return experiment

    def _found_experiment(self, name: str) -> str | None:
        path = f"{PATH}/experiments/get-by-name"
        answer = self._api.found(path, FoundExperiment, experiment_name=name)
        return answer.experiment.experiment_id if answer is not None else None

    def _move_alias(self, view: LedgerView, number: str) -> None:
        """Have the alias name the release in force."""
        path = f"{PATH}/registered-models/alias"
        try:
            answer = self._api.get(path, FoundVersion, name=view.name, alias=ALIAS)
        except Refused:
            # No alias yet: MLflow answers 400 or 404, by its version.
            aliased = ""
        else:
            aliased = str(answer.model_version.version)
        if aliased == number:
            return
        self._api.post(
            path,
            {"name": view.name, "alias": ALIAS, "version": number},
        )
        self._entered.append(f"alias {ALIAS} is {view.version_in_force}")


def _milliseconds(line: Line) -> int:
    """Return the time of a release in milliseconds since the epoch."""
    return calendar.timegm(time.strptime(line.at, "%Y-%m-%dT%H:%M:%SZ")) * 1000


def _points(line: Line, details: Details) -> Iterator[tuple[str, float, int]]:
    """Yield (name, value, round) of each number: scores of the release at its last round."""
    last_round = 0
    for record in details.rounds:
        last_round = record.round
        for name, value in _round_scores(record).items():
            yield name, value, record.round
    for name, value in scores_of(line, details).items():
        yield f"release/{name}", value, last_round


def _round_scores(record: RoundRecord) -> dict[str, float]:
    """Return the numbers of a round that are worth a curve."""
    scores = {
        f"rounds/validation_{record.metric}": record.score,
        f"rounds/test_{record.metric}": record.test_score,
        "rounds/promoted": float(record.verdict == "promoted"),
        "rounds/tokens_trained": float(record.tokens_trained),
    }
    if record.generated:
        scores["rounds/accepted_share"] = record.accepted / record.generated
    if record.perplexity is not None:
        scores["rounds/perplexity"] = record.perplexity
    return scores


def _tags(texts: Mapping[str, str]) -> list[JsonValue]:
    """Return tags or parameters as MLflow takes them, without empty ones."""
    return [{"key": key, "value": text} for key, text in texts.items() if text]
