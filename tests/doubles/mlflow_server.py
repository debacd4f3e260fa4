"""MLflow's tracking server and model registry in memory, as far as releases need them.

Real servers (3.x) were seen to answer so: error codes, statuses, an alias that is missing, parameters that may
not change, local sources of versions that are refused.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.doubles.network import Answering
from tests.doubles.served import Served

Json = dict[str, Any]
Answer = tuple[int, Json]
PATH = "/api/2.0/mlflow/"


def _missing(words: str) -> Answer:
    return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": words}


def _exists(words: str) -> Answer:
    return 400, {"error_code": "RESOURCE_ALREADY_EXISTS", "message": words}


def _wrong(words: str) -> Answer:
    return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": words}


class MlflowServer(Served):
    """The server; close it when done."""

    def __init__(self) -> None:
        self.models: dict[str, Json] = {}
        self.versions: list[Json] = []
        self.runs: list[Json] = []
        self.experiments: dict[str, str] = {}
        self._lock = threading.Lock()
        self.serve(self._handler())

    def carry_out(self, method: str, target: str, body: Json) -> Answer:
        """The answer to a request, after its effect."""
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        call = parts.path.removeprefix(PATH).replace("/", "_").replace("-", "_")
        with self._lock:
            carry_out = getattr(self, f"{method.lower()}_{call}", None)
            if carry_out is None:
                return 404, {"message": f"no such endpoint: {method} {parts.path}"}
            answer: Answer = carry_out(query if method == "GET" else body)
            return answer

    def get_registered_models_get(self, query: Json) -> Answer:
        model = self.models.get(query["name"])
        if model is None:
            return _missing(f"Registered Model with name={query['name']} not found")
        return 200, {"registered_model": model}

    def post_registered_models_create(self, body: Json) -> Answer:
        if body["name"] in self.models:
            return _exists(f"Registered Model (name={body['name']}) already exists.")
        self.models[body["name"]] = {**body, "aliases": {}}
        return 200, {"registered_model": self.models[body["name"]]}

    def get_model_versions_search(self, query: Json) -> Answer:
        pattern = r"name = '([^']*)' AND tags\.`([^`]*)` = '([^']*)'"
        match = re.fullmatch(pattern, query["filter"])
        if match is None:
            return _wrong(f"Invalid clause(s) in filter string: {query['filter']}")
        name, key, text = match.groups()
        tag = {"key": key, "value": text}
        versions = [
            one for one in self.versions if one["name"] == name and tag in one["tags"]
        ]
        return 200, {"model_versions": versions} if versions else {}

    def post_model_versions_create(self, body: Json) -> Answer:
        if body["name"] not in self.models:
            return _missing(f"Registered Model with name={body['name']} not found")
        if not re.match(r"(s3|https?|runs|models)://?", body["source"]):
            return _wrong(f"Invalid model version source: '{body['source']}'.")
        number = 1 + sum(one["name"] == body["name"] for one in self.versions)
        self.versions.append({**body, "version": str(number)})
        return 200, {"model_version": self.versions[-1]}

    def get_registered_models_alias(self, query: Json) -> Answer:
        number = self.models[query["name"]]["aliases"].get(query["alias"])
        if number is None:
            return _wrong(f"Registered model alias {query['alias']} not found.")
        return 200, {"model_version": self._version(query["name"], number)}

    def post_registered_models_alias(self, body: Json) -> Answer:
        if self._version(body["name"], body["version"]) is None:
            return _missing("Model Version not found")
        self.models[body["name"]]["aliases"][body["alias"]] = body["version"]
        return 200, {}

    def _version(self, name: str, number: str) -> Json | None:
        for version in self.versions:
            if (version["name"], version["version"]) == (name, number):
                return version
        return None

    def get_experiments_get_by_name(self, query: Json) -> Answer:
        name = query["experiment_name"]
        if name not in self.experiments:
            return _missing(f"Could not find experiment with name '{name}'")
        return 200, {
            "experiment": {"experiment_id": self.experiments[name], "name": name}
        }

    def post_experiments_create(self, body: Json) -> Answer:
        if body["name"] in self.experiments:
            return _exists(f"Experiment(name={body['name']}) already exists.")
        self.experiments[body["name"]] = str(len(self.experiments) + 1)
        return 200, {"experiment_id": self.experiments[body["name"]]}

    def post_runs_create(self, body: Json) -> Answer:
        mlflow_run = {
            "info": {
                "run_id": f"run{len(self.runs)}",
                "experiment_id": body["experiment_id"],
                "status": "RUNNING",
            },
            "tags": {tag["key"]: tag["value"] for tag in body["tags"]},
            "params": {},
            "metrics": {},
        }
        self.runs.append(mlflow_run)
        return 200, {"run": mlflow_run}

    def post_runs_search(self, body: Json) -> Answer:
        match = re.fullmatch(r"tags\.`([^`]*)` = '([^']*)'", body["filter"])
        if match is None:
            return _wrong(f"Invalid clause(s) in filter string: {body['filter']}")
        key, text = match.groups()
        runs = [
            one
            for one in self.runs
            if one["info"]["experiment_id"] in body["experiment_ids"]
            and one["tags"].get(key) == text
        ]
        return 200, {"runs": runs} if runs else {}

    def post_runs_log_batch(self, body: Json) -> Answer:
        mlflow_run = self._run(body["run_id"])
        if mlflow_run is None:
            return _missing(f"Run with id={body['run_id']} not found")
        for tag in body.get("tags", []):
            mlflow_run["tags"][tag["key"]] = tag["value"]
        for parameter in body.get("params", []):
            key, text = parameter["key"], parameter["value"]
            if mlflow_run["params"].setdefault(key, text) != text:
                return _wrong(
                    f"Changing param values is not allowed. Param with key='{key}'"
                )
        for metric in body.get("metrics", []):
            # The same point logged twice is one.
            points = mlflow_run["metrics"].setdefault(metric["key"], set())
            points.add((metric["timestamp"], metric["step"], metric["value"]))
        return 200, {}

    def post_runs_update(self, body: Json) -> Answer:
        mlflow_run = self._run(body["run_id"])
        if mlflow_run is None:
            return _missing(f"Run with id={body['run_id']} not found")
        mlflow_run["info"]["status"] = body["status"]
        return 200, {"run_info": mlflow_run["info"]}

    def _run(self, run_id: str) -> Json | None:
        return next((one for one in self.runs if one["info"]["run_id"] == run_id), None)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(Answering):
            def _serve(self) -> None:
                status, answer = server.carry_out(
                    self.command, self.path, self.sent_json()
                )
                self.answer(status, json.dumps(answer, default=list).encode())

            do_GET = do_POST = _serve

        return Handler
