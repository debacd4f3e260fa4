"""A Kubernetes API server with Kubeflow Trainer's TrainJobs, in memory, that can be told to be
slow, rude or strict.

It speaks plain HTTP on 127.0.0.1 and knows what the launcher asks of a real one: TrainJobs with the
server's own fields, uid preconditions and propagation of a deletion, permissions, admission, labels
and field selectors. It has no controllers: a test says what they do (`later`) between two looks at
a job.
"""

from __future__ import annotations

import copy
import json
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.doubles.network import Answering
from tests.doubles.served import Served

Json = dict[str, Any]
Answer = tuple[int, Json | bytes]
Fault = Callable[[Any, Callable[[], Answer]], None]
"""Gets the HTTP handler and what would carry the request out."""
USER = "system:serviceaccount:ml:pipeline"
NOW = "2026-01-02T03:04:05Z"


class KubernetesApi(Served):
    """The server; close it when done."""

    def __init__(self) -> None:
        self.jobs: dict[str, Json] = {}
        self.pods: list[Json] = []
        self.events: list[Json] = []
        self.logs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request, in order."""
        self.bodies: list[Json] = []
        """Bodies of POST and DELETE, in order."""
        self.faults: list[Fault] = []
        """What happens to the next requests."""
        self.always: Fault | None = None
        self.later: list[Callable[[], None]] = []
        """One is done before each GET of a job that is there: what controllers and people did since
        the last."""
        self.denied: set[tuple[str, str]] = set()
        """(verb, resource) that the caller has no permission for."""
        self.admission: tuple[int, str] | None = None
        """Status and words with which a webhook or a quota refuses a TrainJob."""
        self.unknown_fields: set[str] = set()
        """Fields of spec that the installed version of the Trainer does not have."""
        self.trainer_installed = True
        self.token: str | None = None
        """The only bearer token that is accepted."""
        self.reads_until_gone = 0
        """How many more GETs see a job that is deleted in the foreground."""
        self.objects: dict[str, Json] = {}
        """Path → document of everything else that can be read; while there is one, other paths are
        not found."""
        self.hidden: set[str] = set()
        """Paths that the caller has no permission for."""
        self.impersonated: list[str] = []
        """As whom access reviews were asked for, in order."""
        self.may_impersonate = True
        self.lock = threading.RLock()
        self.serve(self._handler())

    def kubeconfig(
        self,
        file: Path,
        endpoint: str = "",
        token: str = "a-token-that-no-message-may-show",
    ) -> Path:
        """Write the file that KUBECONFIG names."""
        file.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "contexts": [
                        {
                            "name": "test",
                            "context": {
                                "cluster": "test",
                                "user": "test",
                                "namespace": "ml",
                            },
                        }
                    ],
                    "clusters": [
                        {
                            "name": "test",
                            "cluster": {"server": endpoint or self.endpoint},
                        }
                    ],
                    "users": [{"name": "test", "user": {"token": token}}],
                }
            )
        )
        return file

    def job(self) -> Json:
        """The only TrainJob."""
        [job] = self.jobs.values()
        return job

    def condition(
        self, kind: str, reason: str = "JobsCompleted", message: str = "as told"
    ) -> Callable[[], None]:
        """What sets a condition of the only TrainJob; one of the other kinds becomes False."""

        def set_it() -> None:
            conditions = (
                self.job().setdefault("status", {}).setdefault("conditions", [])
            )
            for one in conditions:
                one["status"] = "False"
            conditions.append(
                {
                    "type": kind,
                    "status": "True",
                    "reason": reason,
                    "message": message,
                    "lastTransitionTime": NOW,
                }
            )

        return set_it

    def carry_out(self, method: str, target: str, body: Json, token: str) -> Answer:
        """The answer to a request, after its effect."""
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        path = parts.path.strip("/").split("/")
        with self.lock:
            if self.token is not None and token != f"Bearer {self.token}":
                return 401, problem(401, "Unauthorized", "Unauthorized")
            if path[-1] == "selfsubjectaccessreviews":
                return self._review(body)
            if self.objects:
                return self._object(parts.path)
            if path[0] == "apis":
                return self._jobs(method, path[4], path[6:], query, body)
            return self._core(path[3], path[4], path[5:], query)

    def _jobs(
        self,
        method: str,
        namespace: str,
        rest: list[str],
        query: dict[str, str],
        body: Json,
    ) -> Answer:
        if not self.trainer_installed:
            return 404, b"404 page not found\n"
        verb = {"POST": "create", "GET": "get", "DELETE": "delete"}[method]
        if refused := self._refusal(
            verb, "trainjobs", "trainer.kubeflow.org", namespace
        ):
            return refused
        if method == "POST":
            return self._create(namespace, query, body)
        name = rest[0]
        there = (
            name in self.jobs and "deletionTimestamp" not in self.jobs[name]["metadata"]
        )
        if method == "GET" and self.later and there:
            self.later.pop(0)()
        if name not in self.jobs:
            words = f'trainjobs.trainer.kubeflow.org "{name}" not found'
            return 404, problem(
                404, "NotFound", words, details={"name": name, "kind": "trainjobs"}
            )
        job = self.jobs[name]
        if method == "DELETE":
            return self._delete(job, body)
        if "deletionTimestamp" in job["metadata"]:
            self.reads_until_gone -= 1
            if self.reads_until_gone < 0:
                del self.jobs[name]
        return 200, copy.deepcopy(job)

    def _create(self, namespace: str, query: dict[str, str], body: Json) -> Answer:
        name = body["metadata"]["name"]
        if namespace != "ml":
            return 404, problem(
                404,
                "NotFound",
                f'namespaces "{namespace}" not found',
                details={"kind": "namespaces"},
            )
        unknown = sorted(self.unknown_fields & set(body["spec"]))
        if unknown and query.get("fieldValidation") == "Strict":
            return 400, problem(
                400,
                "BadRequest",
                f'strict decoding error: unknown field "spec.{unknown[0]}"',
            )
        if self.admission:
            return self.admission[0], problem(
                self.admission[0], "Forbidden", self.admission[1]
            )
        if name in self.jobs:
            words = f'trainjobs.trainer.kubeflow.org "{name}" already exists'
            return 409, problem(409, "AlreadyExists", words)
        self.jobs[name] = stored(body)
        return 201, copy.deepcopy(self.jobs[name])

    def _delete(self, job: Json, body: Json) -> Answer:
        metadata = job["metadata"]
        wanted = (body.get("preconditions") or {}).get("uid", metadata["uid"])
        if wanted != metadata["uid"]:
            return 409, problem(
                409,
                "Conflict",
                f"the UID in the precondition ({wanted}) does not match",
            )
        if body.get("propagationPolicy") == "Foreground":
            metadata.update(deletionTimestamp=NOW, finalizers=["foregroundDeletion"])
        else:
            del self.jobs[metadata["name"]]
        return 200, copy.deepcopy(job)

    def _object(self, path: str) -> Answer:
        if path in self.hidden:
            return 403, problem(403, "Forbidden", f'User "{USER}" cannot get {path}')
        if path not in self.objects:
            return 404, problem(404, "NotFound", f"{path} not found")
        return 200, self.objects[path]

    def _review(self, body: Json) -> Answer:
        """Whether a request would be allowed: not if it is among those denied."""
        if self.impersonated and self.impersonated[-1] and not self.may_impersonate:
            return 403, problem(
                403, "Forbidden", f'User "{USER}" cannot impersonate resource "users"'
            )
        asked = body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        return 201, {
            **body,
            "status": {"allowed": (asked["verb"], resource) not in self.denied},
        }

    def _core(
        self, namespace: str, kind: str, rest: list[str], query: dict[str, str]
    ) -> Answer:
        if kind == "pods" and rest[1:] == ["log"]:
            if refused := self._refusal("get", "pods/log", "", namespace):
                return refused
            if rest[0] not in self.logs:
                return 404, problem(404, "NotFound", f'pods "{rest[0]}" not found')
            assert query["container"] == "node"
            return 200, b"".join(
                self.logs[rest[0]].splitlines(keepends=True)[-int(query["tailLines"]) :]
            )
        if refused := self._refusal("list", kind, "", namespace):
            return refused
        if kind == "pods":
            wanted = dict(pair.split("=") for pair in query["labelSelector"].split(","))
            items = [
                pod
                for pod in self.pods
                if wanted.items() <= pod["metadata"]["labels"].items()
            ]
        else:
            fields = dict(pair.split("=") for pair in query["fieldSelector"].split(","))
            items = [
                event
                for event in self.events
                if event["involvedObject"]["name"] == fields["involvedObject.name"]
                and event["type"] == fields["type"]
            ]
        return 200, {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}

    def _refusal(
        self, verb: str, resource: str, group: str, namespace: str
    ) -> Answer | None:
        if (verb, resource) not in self.denied:
            return None
        return 403, problem(
            403,
            "Forbidden",
            f'{resource} is forbidden: User "{USER}" cannot {verb} resource "{resource}" in API '
            f'group "{group}" in the namespace "{namespace}"',
        )

    def _handler(self) -> type[Answering]:
        api = self

        class Handler(Answering):
            def do_GET(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = json.loads(sent) if sent else {}
                api.requests.append((self.command, urlsplit(self.path).path))
                if sent:
                    api.bodies.append(body)
                    api.impersonated.append(self.headers.get("Impersonate-User", ""))
                with api.lock:
                    fault = api.faults.pop(0) if api.faults else api.always
                token = self.headers.get("Authorization", "")
                if fault is None:
                    self.answer(*api.carry_out(self.command, self.path, body, token))
                else:
                    fault(
                        self,
                        lambda: api.carry_out(self.command, self.path, body, token),
                    )

            do_POST = do_DELETE = do_GET

        return Handler


def failing(status: int, **headers: str) -> Fault:
    """An error answer without any effect."""
    return lambda handler, carry_out: handler.answer(
        status, problem(status, "Told", "to fail"), **headers
    )


def reset(handler: Any, carry_out: Callable[[], Answer]) -> None:
    """The connection is reset before the request has an effect."""
    handler.connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    handler.connection.close()
    handler.close_connection = True


def lost(handler: Any, carry_out: Callable[[], Answer]) -> None:
    """The request is carried out, and the connection is reset instead of an answer."""
    carry_out()
    reset(handler, carry_out)


def slow(seconds: float) -> Fault:
    """The answer comes late."""

    def wait(handler: Any, carry_out: Callable[[], Answer]) -> None:
        time.sleep(seconds)
        # Nobody may be left to read it.
        try:
            handler.answer(*carry_out())
        except OSError:
            handler.close_connection = True

    return wait


def garbled(handler: Any, carry_out: Callable[[], Answer]) -> None:
    """A proxy answers 200 with a page of its own."""
    handler.answer(200, b"<html>Please log in</html>")


def cut_off(handler: Any, carry_out: Callable[[], Answer]) -> None:
    """Half an answer, then the end of the connection."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"metadata": ')
    handler.close_connection = True


def problem(status: int, reason: str, message: str, **more: Any) -> Json:
    """The server's Status object."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": status,
        **more,
    }


def stored(job: Json) -> Json:
    """A TrainJob as the server keeps it: with what it and the Trainer's webhook add."""
    made = copy.deepcopy(job)
    made["metadata"].update(
        uid=str(uuid.uuid4()),
        resourceVersion="1",
        generation=1,
        creationTimestamp=NOW,
        managedFields=[],
    )
    made["spec"].setdefault("suspend", False)
    made["spec"].setdefault("managedBy", "trainer.kubeflow.org/trainjob-controller")
    for patch in made["spec"].get("runtimePatches", ()):
        patch["time"] = NOW
    return made


def pod(job: str, node: int, phase: str, restart: int = 0, **status: Any) -> Json:
    """A pod of a TrainJob, with the labels that JobSet and Job give it."""
    return {
        "metadata": {
            "name": f"{job}-node-0-{node}-x{restart}abc",
            "labels": {
                "jobset.sigs.k8s.io/jobset-name": job,
                "jobset.sigs.k8s.io/replicatedjob-name": "node",
                "jobset.sigs.k8s.io/restart-attempt": str(restart),
                "batch.kubernetes.io/job-completion-index": str(node),
            },
        },
        "status": {"phase": phase, **status},
    }


def ended(exit_code: int, finished: str, reason: str = "Error") -> Json:
    """Status of a pod whose container ended."""
    terminated = {"exitCode": exit_code, "finishedAt": finished, "reason": reason}
    return {
        "containerStatuses": [{"name": "node", "state": {"terminated": terminated}}]
    }
