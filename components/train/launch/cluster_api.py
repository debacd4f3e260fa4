"""The few calls of the Kubernetes API server that the launcher needs.

A call that fails for now (429, 5xx, 410, a reset or silent connection, an answer that is no JSON)
is made again with growing pauses until `give_up_seconds` are over, then it is Transient.
A failure that a person has to mend is a UserError at once: no permission, no Kubeflow Trainer, an
object the server does not accept.

With this module only `components.cli` may import `kubernetes`, and both do so on first use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from components.errors import RatchetError, Transient, UserError, one_line
from components.retry import Backoff, Patience

if TYPE_CHECKING:
    from kubernetes.client import Configuration
    from kubernetes.client.exceptions import ApiException

Json = dict[str, Any]
"""An object of the API server, as it sends it."""
GROUP = "trainer.kubeflow.org"
VERSION = "v1alpha1"
PLURAL = "trainjobs"
CONFLICT = 409
NOT_FOUND = 404
PASSING = (408, 410, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed. 410: the server forgot the version asked for;
ask anew."""
LONGEST_MESSAGE = 400
"""Characters of a server's text that a message shows."""


class Response(Protocol):
    """The parts of an HTTP response that are read here."""

    @property
    def data(self) -> bytes:
        """Body of the answer."""


Method = Callable[..., Response]
"""A method of the Kubernetes client, called for the response as it came."""


@dataclass(frozen=True, kw_only=True)
class LaunchPatience(Patience):
    """Waiting times of the launcher.

    A job goes on while its launcher cannot reach the API server, so calls may fail for long.
    """

    poll_seconds: float = 5.0
    """Between two looks at the job."""
    look_seconds: float = 30.0
    """Between two looks at its pods and events, for the progress notes."""
    removal_seconds: float = 600.0
    """Longest time that the removal of a finished job and of its pods may take."""


@dataclass(frozen=True)
class Request:
    """A call in the words of a Role, for messages about permissions."""

    verb: str
    resource: str
    namespace: str
    group: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} in namespace {self.namespace}"


class Refused(Exception):
    """An answer of the server that its caller gives a meaning: 404 (no such object) or 409."""

    def __init__(self, status: int) -> None:
        self.status = status


class Cluster:
    """The objects of one API server that make up a training on many nodes.

    Answers are the server's JSON.
    """

    def __init__(self, configuration: Configuration, patience: LaunchPatience) -> None:
        """`from_environment` makes the usual configuration."""
        from kubernetes import client

        # `_answer` retries: it knows what may be repeated, and for how long.
        configuration.retries = False
        self.patience = patience
        self.server = str(configuration.host)
        api = client.ApiClient(configuration)
        self._custom = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], patience: LaunchPatience | None = None
    ) -> Cluster:
        """Return the cluster this pod runs in, else the one of KUBECONFIG.

        Raises UserError if there is neither.
        """
        from kubernetes import client, config

        configuration = client.Configuration()
        try:
            if environment.get("KUBERNETES_SERVICE_HOST"):
                config.load_incluster_config(configuration)
            else:
                file = environment.get("KUBECONFIG")
                config.load_kube_config(
                    config_file=file,
                    client_configuration=configuration,
                    persist_config=False,
                )
        except config.ConfigException as error:
            raise UserError(
                "train.num_nodes > 1 needs a Kubernetes cluster, and none is configured "
                f"({_shown(str(error))}); run in a pod with a service account token, set "
                "KUBECONFIG, or set train.num_nodes to 1"
            ) from error
        return cls(configuration, patience or LaunchPatience())

    def create_job(self, namespace: str, job: Json) -> Json | None:
        """Create a TrainJob and return it, or None if there is one of that name."""
        try:
            return self._call(
                Request("create", PLURAL, namespace, GROUP),
                self._custom.create_namespaced_custom_object,
                GROUP,
                VERSION,
                namespace,
                PLURAL,
                job,
                # A field that the server's version of the Trainer does not know is refused (2.1 has
                # no spec.runtimePatches): by default the server would drop it.
                field_validation="Strict",
            )
        except Refused as refused:
            if refused.status != CONFLICT:
                raise UserError(
                    f"there is no namespace {namespace} on {self.server}"
                ) from None
            return None

    def read_job(self, namespace: str, name: str) -> Json | None:
        """Return a TrainJob, or None if there is none of that name."""
        try:
            return self._call(
                Request("get", PLURAL, namespace, GROUP),
                self._custom.get_namespaced_custom_object,
                GROUP,
                VERSION,
                namespace,
                PLURAL,
                name,
            )
        except Refused:
            return None

    def delete_job(self, namespace: str, name: str, uid: str, propagation: str) -> bool:
        """Delete the TrainJob that has this uid and no other; return False if it is gone already.

        `propagation` is Foreground (the job goes last, after its pods) or Background (it goes at
        once).
        """
        options = {"propagationPolicy": propagation, "preconditions": {"uid": uid}}
        try:
            self._call(
                Request("delete", PLURAL, namespace, GROUP),
                self._custom.delete_namespaced_custom_object,
                GROUP,
                VERSION,
                namespace,
                PLURAL,
                name,
                body=options,
            )
        except Refused:
            return False
        return True

    def pods(self, namespace: str, selector: str) -> list[Json]:
        """Return the pods with these labels."""
        return self._list(
            "pods", self._core.list_namespaced_pod, namespace, label_selector=selector
        )

    def warnings(self, namespace: str, name: str) -> list[Json]:
        """Return the warning events about the objects of this name."""
        selector = f"involvedObject.name={name},type=Warning"
        return self._list(
            "events",
            self._core.list_namespaced_event,
            namespace,
            field_selector=selector,
        )

    def log_tail(
        self, namespace: str, pod: str, container: str, num_lines: int
    ) -> list[str]:
        """Return the last lines of a container's log, none if the pod is gone."""
        try:
            text = self._answer(
                Request("get", "pods/log", namespace),
                self._core.read_namespaced_pod_log,
                pod,
                namespace,
                container=container,
                tail_lines=num_lines,
            )
        except Refused:
            return []
        return text.decode("utf-8", errors="replace").splitlines()

    def _list(
        self, resource: str, method: Method, namespace: str, **options: object
    ) -> list[Json]:
        try:
            listing = self._call(
                Request("list", resource, namespace), method, namespace, **options
            )
        except Refused:
            return []
        return list(listing.get("items") or ())

    def _call(
        self, request: Request, method: Method, *arguments: object, **options: object
    ) -> Json:
        body = self._answer(request, method, *arguments, is_json=True, **options)
        document: Json = json.loads(body)
        return document

    def _answer(
        self,
        request: Request,
        method: Method,
        *arguments: object,
        is_json: bool = False,
        **options: object,
    ) -> bytes:
        """Return the body of the answer, after as many tries as the patience allows."""
        backoff = Backoff(self.patience)
        while True:
            outcome, asked_seconds = self._try(
                request, method, arguments, is_json, options
            )
            if isinstance(outcome, bytes):
                return outcome
            if not backoff.wait(asked_seconds):
                seconds = self.patience.give_up_seconds
                raise Transient(
                    f"{self.server} could not {request} for {seconds:.0f} s: {outcome}"
                )

    def _try(
        self,
        request: Request,
        method: Method,
        arguments: tuple[object, ...],
        is_json: bool,
        options: Mapping[str, object],
    ) -> tuple[bytes | str, float]:
        """Return (body, 0), or (fault that may pass, seconds the server asks to wait)."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        # A pair, because the client silently ignores a timeout that is one float.
        limits = (self.patience.connect_seconds, self.patience.answer_seconds)
        try:
            # The raw body: the client's own decoding fails on fields that are null and on bytes
            # that are not UTF-8.
            response = method(
                *arguments, **options, _preload_content=False, _request_timeout=limits
            )
            body = bytes(response.data)
        except ApiException as error:
            # Status 0 is a TLS failure: a connection broken off may pass, a bad certificate stays.
            is_certificate = "CERTIFICATE" in str(error.reason).upper()
            broken_off = error.status == 0 and not is_certificate
            if error.status not in PASSING and not broken_off:
                raise self._refusal(request, error) from error
            fault = f"{error.status} {_shown(str(error.reason))}"
            return fault, _retry_after_seconds(error.headers)
        except (HTTPError, OSError) as error:
            return f"{type(error).__name__}: {_shown(str(error))}", 0.0
        if is_json and not _is_object(body):
            return "an answer that is no JSON object", 0.0
        return body, 0.0

    def _refusal(self, request: Request, error: ApiException) -> RatchetError | Refused:
        """Return the exception for an answer that a retry would not change."""
        text = (error.body or b"").decode("utf-8", errors="replace")
        answer = json.loads(text) if _is_object(error.body or b"") else {}
        message = _shown(str(answer.get("message") or text or error.reason))
        match error.status:
            case 404 if answer.get("reason") == "NotFound":
                return Refused(NOT_FOUND)
            # Without that reason it is the resource's kind that the server does not know.
            case 404:
                return UserError(
                    f"{self.server} does not know {PLURAL}.{GROUP}/{VERSION}: Kubeflow Trainer v2 "
                    "is not installed there; install it, or set train.num_nodes to 1"
                )
            case 409:
                return Refused(CONFLICT)
            # A quota is free again when other jobs end, so it may pass.
            case 403 if "exceeded quota" in message:
                return Transient(
                    f"the quota of namespace {request.namespace} is used up: {message}"
                )
            # An admission webhook answers 403 too, in these words: no Role would help.
            case 401 | 403 if "denied the request" not in message:
                return UserError(
                    f"no permission to {request} ({message}); give the service account a Role "
                    f"that allows {request.verb!r} on {request.resource!r} of API group "
                    f"{request.group!r}"
                )
        if error.status == 0:
            return UserError(
                f"no trusted TLS connection to {self.server}: {message}; check its certificate "
                "authority"
            )
        return UserError(
            f"{self.server} refuses to {request}: {message}; check the runtime, the installed "
            "Kubeflow Trainer (2.3 is needed) and its admission rules"
        )


def reason_and_message(condition: Json) -> str:
    """Return the account of a condition or an event, as one text."""
    return f"{condition.get('reason', '')}: {condition.get('message', '')}"


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


def _retry_after_seconds(headers: Mapping[str, str] | None) -> float:
    """Return the seconds of Retry-After, 0 without one."""
    # API servers send whole seconds, never a date.
    text = str((headers or {}).get("Retry-After", ""))
    return float(text) if text.isdigit() else 0.0


def _shown(text: str) -> str:
    """Return a server's text, safe for one line of a terminal, and not too long for a message."""
    return one_line(text, LONGEST_MESSAGE)
