"""The API server of Kubeflow Pipelines 2.17, in memory, that can be told to be slow, rude or
strict.

It speaks plain HTTP on 127.0.0.1 and knows what `submit` and `schedule` ask of a real one:
experiments, pipelines and their versions with names of their own, runs and recurring runs of any
name, filters, pages, uploads, bearer tokens. It has no controllers: a test says by `states` how a
run goes on between two looks at it.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.doubles.kubernetes_api import Answer, Fault, Json
from tests.doubles.network import Answering
from tests.doubles.served import Served

KINDS = {
    "experiments": "experiment",
    "pipelines": "pipeline",
    "runs": "run",
    "recurringruns": "recurring_run",
}
KEYS = {"recurringruns": "recurringRuns", "versions": "pipeline_versions"}
UNIQUE = ("experiments", "pipelines", "versions")
NAMESPACE = "ml"


class KfpApi(Served):
    """The server; close it when done."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Json]] = {
            kind: {}
            for kind in (
                "experiments",
                "pipelines",
                "versions",
                "runs",
                "recurringruns",
            )
        }
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request, in order."""
        self.faults: list[Fault | None] = []
        """What happens to the next requests; None: nothing."""
        self.faults_of: dict[tuple[str, str], list[Fault]] = {}
        """(method, end of the path) → what happens to the next such requests."""
        self.states: list[str] = []
        """One becomes the state of a run at each look at it; the last one stays."""
        self.error: str = ""
        """Message of the failed pod in the Workflow of a failed run; the API v2beta1 has none."""
        self.errors: list[str] = []
        """One is the message of each failed run, before `error` is."""
        self.logs: dict[str, str] = {}
        """Name of a pod that is there → log of its container `main`."""
        self.archive: dict[str, str] | None = {}
        """Node or name of a pod → log that Argo archived as it ended; None: it archives none."""
        self.ui_logs: dict[str, str] | None = None
        """Name of a pod → log that the UI's server reads; None: the address is the API's alone.

        Recorded from the server of 2.17 (frontend/server) beside a backend of one user."""
        self.report_phase = "Succeeded"
        """Phase of the exit task's pod in the Workflow of a run that has ended; empty: no pod."""
        self.killed: list[str] = []
        """Runs whose pods are gone because their schedule was deleted."""
        self.health: Json = {"multi_user": True, "tag_name": "2.17.0"}
        self.tokens: set[str] = set()
        """Bearer tokens that are accepted; empty: all, and none."""
        self.forbidden = False
        self.page_size = 100
        """Most objects that one answer lists."""
        self.lock = threading.RLock()
        self._numbers = itertools.count(1)
        self.serve(self._handler())

    def all(self, kind: str) -> list[Json]:
        """Objects of a kind, oldest first."""
        return list(self.objects[kind].values())

    def made(self, kind: str) -> int:
        """How many POSTs there were for a kind."""
        return sum(
            method == "POST" and path.split("/")[-1].startswith(kind)
            for method, path in self.requests
        )

    def add(self, kind: str, **fields: Any) -> Json:
        """An object as the server keeps it."""
        number = next(self._numbers)
        name = "pipeline_version" if kind == "versions" else KINDS[kind]
        one = {
            **fields,
            f"{name}_id": f"{name}-{number}",
            "storage_state": "AVAILABLE",
            "created_at": f"2026-01-02T03:{number // 60:02}:{number % 60:02}Z",
        }
        self.objects[kind][one[f"{name}_id"]] = one
        return one

    def carry_out(self, method: str, target: str, body: bytes, headers: Any) -> Answer:
        """The answer to a request, after its effect."""
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        with self.lock:
            path = unquote(parts.path)
            # A handler of plain HTTP, beside the gRPC services that look at the token. In a
            # cluster of many users a gateway stands before all.
            if match := re.fullmatch(
                r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", path
            ):
                return self._log(match[1], match[2])
            if path == "/k8s/pod/logs":
                return self._log_of_ui(query)
            token = str(headers.get("Authorization", "")).removeprefix("Bearer ")
            if self.tokens and token not in self.tokens:
                return problem(
                    401, 16, "Request header error: there is no user identity header."
                )
            if self.forbidden:
                return problem(
                    403, 7, "User 'ci' is not authorized with reason: no role binding"
                )
            if match := re.fullmatch(r"/apis/v1beta1/runs/([^/]+)", path):
                return self._workflow(match[1])
            path = path.removeprefix("/apis/v2beta1/")
            if path.startswith("/"):
                return 404, b"404 page not found\n"
            return self._route(method, path, query, body, headers)

    def _route(
        self, method: str, path: str, query: dict[str, str], body: bytes, headers: Any
    ) -> Answer:
        if path == "healthz":
            return 200, {"commit_sha": "x", **self.health}
        if path == "pipelines/upload_version":
            return self._upload(query, body, str(headers["Content-Type"]))
        if match := re.fullmatch(r"pipelines/([^/]+)/versions", path):
            return self._list("versions", query, pipeline_id=match[1])
        kind, _, name = path.partition("/")
        if method == "POST" and not name:
            return self._create(kind, json.loads(body))
        if not name:
            scope = {
                key: query[key]
                for key in ("experiment_id", "namespace")
                if key in query
            }
            return self._list(kind, query, **scope)
        name, _, action = name.partition(":")
        if name not in self.objects[kind]:
            return problem(404, 5, f"{KINDS[kind]} {name} not found")
        if action == "disable":
            self.objects[kind][name].update(mode="DISABLE", status="DISABLED")
            return 200, {}
        if method == "DELETE":
            del self.objects[kind][name]
            # As 2.17 does, because the schedule's object owns them: the states stay.
            self.killed += [
                run["run_id"]
                for run in self.all("runs")
                if run.get("recurring_run_id") == name and run["state"] == "RUNNING"
            ]
            return 200, {}
        if kind == "runs" and self.states:
            self._go_on(self.objects[kind][name])
        return 200, dict(self.objects[kind][name])

    def _go_on(self, run: Json) -> None:
        run["state"] = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if run["state"] == "FAILED" and self.error:
            # As Kubeflow Pipelines 2.17 answers: names and states of Argo's nodes, never a message.
            names = {"prepare": "SUCCEEDED", "executor": "FAILED", "train-r1": "FAILED"}
            run["run_details"] = {
                "task_details": [
                    {"display_name": name, "state": state}
                    for name, state in names.items()
                ]
            }

    def _log_of_ui(self, query: dict[str, str]) -> Answer:
        """As frontend/server of 2.17 answers, and as the API does where no UI is."""
        if self.ui_logs is None:
            return 404, b"404 page not found\n"
        if self.health["multi_user"] and "podnamespace" not in query:
            return 422, b"podnamespace argument is required"
        if query["podname"] not in self.ui_logs or not query["createdat"]:
            reason = "S3Error: The specified key does not exist."
            return 500, f"Could not get main container logs: {reason}".encode()
        return 200, self.ui_logs[query["podname"]].encode()

    def _workflow(self, run_id: str) -> Answer:
        """A run in the API v1beta1, with the Workflow that the persistence agent last reported."""
        run = self.objects["runs"].get(run_id)
        if run is None:
            return problem(404, 5, f"run {run_id} not found")
        nodes: dict[str, Json] = {}
        if run["state"] == "FAILED" and self.error:
            message = self.errors.pop(0) if self.errors else self.error
            nodes = failed_workflow("train-r1", message)
        if run["state"] in ("SUCCEEDED", "FAILED", "CANCELED") and self.report_phase:
            nodes |= report_nodes(self.report_phase)
        workflow = {
            "kind": "Workflow",
            "metadata": {
                "name": "wf",
                "creationTimestamp": "2026-01-02T03:00:00Z",
            },
            "status": {"phase": "Failed", "nodes": nodes},
        }
        runtime = {"workflow_manifest": json.dumps(workflow)}
        return 200, {"run": {"id": run_id}, "pipeline_runtime": runtime}

    def _log(self, run_id: str, node_id: str) -> Answer:
        """As run_log_server.go answers: 200 is sent first, so a failure is a document behind it.

        No token is looked at. The name is that of a pod; the archive knows the node's id too.
        """
        if self.ui_logs is not None:
            # The UI's server hands on the APIs v1beta1 and v2beta1, not this one.
            return 404, f"<pre>Cannot GET /apis/v1alpha1/runs/{run_id}</pre>".encode()
        if run_id not in self.objects["runs"]:
            return log_problem(run_id, "due to run fetching error: Run not found")
        if node_id in self.logs:
            return 200, self.logs[node_id].encode()
        if self.archive is None:
            reason = f'pods "{node_id}" not found'
            return log_problem(run_id, f"from pod {node_id}: {reason}")
        names = {node_id, node_id.replace("wf-system-container-impl-", "wf-")}
        for name in names:
            if name in self.archive:
                return 200, archived(self.archive[name]).encode()
        # As 2.17 answers for a run whose nodes Argo keeps compressed: it looks at another place
        # than the one that its own installation writes to.
        key = f"/artifacts/wf/{node_id}/main.log"
        return log_problem(
            run_id,
            f"InternalServerError: Failed to read logs from archive {node_id} due to error fetching "
            f"the log file: InternalServerError: Failed to get file reader for {key}: blob (key "
            f'"{key}") (code=NotFound): operation error S3: GetObject, https response error '
            "StatusCode: 404, NoSuchKey: The specified key does not exist.",
        )

    def _create(self, kind: str, body: Json) -> Answer:
        name = body["display_name"]
        if kind in UNIQUE and any(
            one["display_name"] == name for one in self.all(kind)
        ):
            return problem(409, 6, f"Already exist error: {name}")
        if kind in ("runs", "recurringruns"):
            if body["experiment_id"] not in self.objects["experiments"]:
                return problem(404, 5, "experiment not found")
            if (
                body["pipeline_version_reference"]["pipeline_version_id"]
                not in self.objects["versions"]
            ):
                return problem(400, 3, "Invalid input error: no such pipeline version")
        if (
            kind == "recurringruns"
            and len(body["trigger"]["cron_schedule"]["cron"].split()) != 6
        ):
            return problem(400, 3, "Schedule cron is not a valid cron expression")
        extra = {
            "runs": {"state": "PENDING"},
            "recurringruns": {"status": "ENABLED"},
        }.get(kind, {})
        return 200, self.add(kind, **body, **extra)

    def _upload(self, query: dict[str, str], body: bytes, content_type: str) -> Answer:
        head = f"Content-Type: {content_type}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + body)
        assert isinstance(message, EmailMessage)
        [part] = message.iter_parts()
        text = part.get_payload(decode=True)
        assert isinstance(text, bytes)
        documents = list(
            yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        )
        pipeline = query["pipelineid"]
        if pipeline not in self.objects["pipelines"]:
            return problem(404, 5, f"pipeline {pipeline} not found")
        versions = [
            one for one in self.all("versions") if one["pipeline_id"] == pipeline
        ]
        if any(one["display_name"] == query["name"] for one in versions):
            return problem(409, 6, f"Already exist error: {query['name']}")
        spec = {"pipeline_spec": documents[0], "platform_spec": documents[1]}
        return 200, self.add(
            "versions",
            display_name=query["name"],
            pipeline_id=pipeline,
            pipeline_spec=spec,
        )

    def _list(self, kind: str, query: dict[str, str], **scope: str) -> Answer:
        [wanted] = json.loads(query["filter"])["predicates"]
        assert wanted["operation"] == 1
        found = [
            one
            for one in self.all(kind)
            if one.get(wanted["key"]) == wanted["stringValue"]
            and all(one.get(key, value) == value for key, value in scope.items())
        ]
        begin = int(query.get("page_token") or 0)
        end = begin + min(self.page_size, int(query.get("page_size") or 20))
        more = {"next_page_token": str(end)} if end < len(found) else {}
        return 200, {KEYS.get(kind, kind): found[begin:end], **more} if found else {}

    def _handler(self) -> type[Answering]:
        api = self

        class Handler(Answering):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = urlsplit(self.path).path
                with api.lock:
                    api.requests.append((self.command, path))
                    fault = api.faults.pop(0) if api.faults else None
                    for (method, end), faults in api.faults_of.items():
                        if (
                            fault is None
                            and faults
                            and method == self.command
                            and path.endswith(end)
                        ):
                            fault = faults.pop(0)
                if fault is None:
                    self.answer(
                        *api.carry_out(self.command, self.path, body, self.headers)
                    )
                else:
                    fault(
                        self,
                        lambda: api.carry_out(
                            self.command, self.path, body, self.headers
                        ),
                    )

            do_POST = do_DELETE = do_GET

        return Handler


def failed_workflow(step: str, message: str, phase: str = "Failed") -> dict[str, Json]:
    """Argo's nodes of a pipeline whose step failed, named and nested as KFP's compiler makes them."""

    def node(name: str, kind: str, phase: str, **more: str) -> Json:
        return {"displayName": name, "name": name, "type": kind, "phase": phase, **more}

    return {
        "wf-1": node("root", "DAG", "Failed"),
        "wf-2": node("prepare", "DAG", "Succeeded", boundaryID="wf-1"),
        "wf-3": node("prepare-driver", "Pod", "Succeeded", boundaryID="wf-1"),
        "wf-4": node("executor", "Pod", "Succeeded", boundaryID="wf-2"),
        "wf-5": node(step, "DAG", "Failed", boundaryID="wf-1"),
        "wf-6": node(f"{step}-driver", "Pod", "Succeeded", boundaryID="wf-1"),
        "wf-7": node(
            "executor",
            "Retry",
            phase,
            boundaryID="wf-5",
            message="No more retries left",
        ),
        "wf-8": node(
            "executor(0)",
            "Pod",
            phase,
            boundaryID="wf-5",
            message=message,
            id="wf-8",
            templateName="system-container-impl",
        ),
    }


def report_nodes(phase: str) -> dict[str, Json]:
    """Argo's nodes of the exit task, which runs as a hook of the DAG that it waits for."""

    def node(node_id: str, name: str, kind: str, boundary: str) -> Json:
        return {
            "id": node_id,
            "displayName": name,
            "name": f"wf.{name}",
            "templateName": "system-container-impl",
            "type": kind,
            "phase": phase,
            "boundaryID": boundary,
            "finishedAt": "2026-01-02T04:00:00Z",
        }

    return {
        "wf-90": node("wf-90", "campaign.onExit", "DAG", "wf-1"),
        "wf-91": node("wf-91", "report-driver", "Pod", "wf-90"),
        "wf-92": node("wf-92", "report", "DAG", "wf-90"),
        "wf-93": node("wf-93", "executor", "Retry", "wf-92"),
        "wf-94": node("wf-94", "executor(0)", "Pod", "wf-92"),
    }


FAILED_POD = "wf-system-container-impl-8"
"""Name of the pod of a step that failed."""
REPORT_POD = "wf-system-container-impl-94"
"""Name of the pod of `report`."""
REPORT_NODE = "wf-94"


def archived(log: str) -> str:
    """A log as archive/log.go copies it: of a line that is a JSON object, the field `log` alone."""
    lines = []
    for line in filter(None, log.split("\n")):
        try:
            fields = json.loads(line)
        except ValueError:
            fields = None
        lines.append(str(fields.get("log", "")) if isinstance(fields, dict) else line)
    return "".join(f"{line}\n" for line in lines)


def log_problem(run_id: str, reason: str) -> Answer:
    """What stands in the place of a log that cannot be read."""
    message = f"BadRequestError: Failed to read logs for run {run_id} {reason}"
    document = {"error_message": message, "error_details": message}
    return 200, json.dumps(document, separators=(",", ":")).encode()


def problem(status: int, code: int, message: str) -> Answer:
    """The server's error document."""
    return status, {"error": message, "code": code, "message": message, "details": []}


def missing_page(handler: Any, carry_out: Any) -> None:
    """A path that the server does not know."""
    handler.answer(404, b"404 page not found\n")


def page(handler: Any, carry_out: Any) -> None:
    """A login page where the API should be."""
    handler.answer(200, b"<html>Please log in</html>")


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
