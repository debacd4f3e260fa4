"""The API of Kubeflow Pipelines as `submit` and `schedule` need it: few calls, tolerant of what
passes, plain about the rest.

A call that fails for now (429, 5xx, a reset or silent connection) is made again with growing pauses
until `give_up_seconds` are over, then it is `Unreachable`. A call that creates something
is not repeated blindly: its caller looks first whether the lost one had its effect.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import RatchetError, UserError
from components.retry import Backoff, Patience

Json = dict[str, Any]
PASSING = (408, 425, 429, 500, 502, 503, 504)
CONFLICT, NOT_FOUND = 409, 404
LONGEST_MESSAGE = 400
_EQUALS = 1
PAGE_SIZE = 100


class Unreachable(RatchetError):
    """The API did not answer for as long as it was waited for. Exit 4."""

    exit_code = 4


class Lost(Exception):
    """A creation whose fate is unknown: the connection broke or the server failed while it was
    carried out."""


class Taken(Exception):
    """There is an object of this name already (409)."""


class Gone(Exception):
    """There is no such object (404)."""


@dataclass(frozen=True, kw_only=True)
class ApiPatience(Patience):
    """Waiting times of a person at a terminal; `submit --wait` lets its poll fail for longer."""

    answer_seconds: float = 60.0
    give_up_seconds: float = 60.0
    refused_seconds: float = 20.0
    """How long a token from a file may be refused: it may be about to be renewed."""


@dataclass(frozen=True)
class Access:
    """Where the API is, and by what right it is spoken to."""

    endpoint: str
    """URL, up to where `/apis/v2beta1` begins."""
    namespace: str = ""
    """Of the runs; empty where Kubeflow Pipelines has one user."""
    token: str = ""
    token_file: Path | None = None
    """Read anew for every call: such tokens are renewed every hour."""
    ca_file: str = ""

    def bearer(self) -> str:
        """The token for the next call; empty: none."""
        if self.token_file is None:
            return self.token
        try:
            return self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"token file {self.token_file}: cannot be read ({error})") from None


def access_from(
    environment: Mapping[str, str], endpoint: str, namespace: str, token_file: Path | None
) -> Access:
    """Options first, then KF_PIPELINES_ENDPOINT, KF_PIPELINES_SA_TOKEN_PATH, KF_PIPELINES_TOKEN and
    KF_PIPELINES_SSL_CA_CERTS. A token is never an argument: those are seen by every user of a
    machine."""
    found = endpoint or environment.get("KF_PIPELINES_ENDPOINT", "")
    if not found:
        raise UserError(
            "no Kubeflow Pipelines to speak to: pass --endpoint https://… or set KF_PIPELINES_ENDPOINT"
        )
    if not found.startswith(("http://", "https://")) or "@" in found:
        raise UserError(
            f"--endpoint {found.rpartition('@')[2]}: use http(s)://host[/path], without a user or password"
        )
    file = token_file or (
        Path(path) if (path := environment.get("KF_PIPELINES_SA_TOKEN_PATH")) else None
    )
    return Access(
        endpoint=found.split("#")[0].rstrip("/"),
        namespace=namespace,
        token=environment.get("KF_PIPELINES_TOKEN", ""),
        token_file=file,
        ca_file=environment.get("KF_PIPELINES_SSL_CA_CERTS", ""),
    )


class Pipelines:
    """The objects of one API server that a submission is made of. Answers are the server's JSON."""

    def __init__(self, access: Access, patience: ApiPatience) -> None:
        import kfp_server_api as api

        configuration = api.Configuration(host=access.endpoint)
        configuration.retries = False  # ours know what may be repeated, and for how long
        configuration.ssl_ca_cert = access.ca_file or None
        configuration.api_key_prefix["authorization"] = "Bearer"
        if access.bearer():
            configuration.api_key["authorization"] = access.bearer()
            configuration.refresh_api_key_hook = lambda one: one.api_key.update(
                authorization=access.bearer()
            )
        client = api.ApiClient(configuration)
        self.access, self.patience = access, patience
        self._health = api.HealthzServiceApi(client)
        self._experiments, self._runs = api.ExperimentServiceApi(client), api.RunServiceApi(client)
        self._pipelines, self._uploads = (
            api.PipelineServiceApi(client),
            api.PipelineUploadServiceApi(client),
        )
        self._schedules = api.RecurringRunServiceApi(client)

    def health(self) -> Json:
        """What the server says of itself; the first contact."""
        return self._call("ask for the server's health", self._health.healthz_service_get_healthz)

    def find_experiment(self, name: str) -> Json | None:
        """The experiment of this name, if there is one."""
        return self._find(
            self._experiments.experiment_service_list_experiments, "experiments", name
        )

    def experiment(self, name: str) -> str:
        """Id of the experiment, made if there is none."""
        body = {
            "display_name": name,
            **({"namespace": self.access.namespace} if self.access.namespace else {}),
        }
        create = self._experiments.experiment_service_create_experiment
        found = self._made(
            f"experiment {name}",
            lambda: self.find_experiment(name),
            lambda: self._create(f"create experiment {name}", create, body),
        )
        return str(found["experiment_id"])

    def version(self, pipeline: str, version: str, package: str) -> tuple[str, str]:
        """Ids of a pipeline and of its version of this name, uploaded if there is none."""
        body = {
            "display_name": pipeline,
            "name": pipeline,
            **({"namespace": self.access.namespace} if self.access.namespace else {}),
        }
        one = self._made(
            f"pipeline {pipeline}",
            lambda: self._find(
                self._pipelines.pipeline_service_list_pipelines, "pipelines", pipeline
            ),
            lambda: self._create(
                f"create pipeline {pipeline}",
                self._pipelines.pipeline_service_create_pipeline,
                body,
            ),
        )["pipeline_id"]
        found = self._made(
            f"version {version} of pipeline {pipeline}",
            lambda: self._find(
                self._pipelines.pipeline_service_list_pipeline_versions,
                "pipeline_versions",
                version,
                one,
            ),
            lambda: self._upload(one, version, package),
        )
        return one, found["pipeline_version_id"]

    def runs(self, experiment: str, name: str) -> list[Json]:
        """Runs of this name, archived ones left out, oldest first."""
        found = self._list(self._runs.run_service_list_runs, "runs", name, experiment_id=experiment)
        kept = [one for one in found if one.get("storage_state") != "ARCHIVED"]
        return sorted(kept, key=lambda one: (str(one.get("created_at", "")), str(one["run_id"])))

    def create_run(self, body: Json) -> Json:
        """Start a run. Raises Lost if it is not known whether it was started."""
        return self._create(
            f"create run {body['display_name']}", self._runs.run_service_create_run, body
        )

    def run(self, run_id: str) -> Json:
        """A run. Raises Gone."""
        return self._call(f"get run {run_id}", self._runs.run_service_get_run, run_id)

    def delete_run(self, run_id: str) -> None:
        """Delete a run; one that is gone is no failure."""
        try:
            self._call(f"delete run {run_id}", self._runs.run_service_delete_run, run_id)
        except Gone:
            return

    def schedules(self, experiment: str, name: str) -> list[Json]:
        """Recurring runs of this name, oldest first."""
        find = self._schedules.recurring_run_service_list_recurring_runs
        found = self._list(find, "recurringRuns", name, experiment_id=experiment)
        return sorted(
            found, key=lambda one: (str(one.get("created_at", "")), str(one["recurring_run_id"]))
        )

    def create_schedule(self, body: Json) -> Json:
        """Make a recurring run. Raises Lost if it is not known whether it was made."""
        create = self._schedules.recurring_run_service_create_recurring_run
        return self._create(f"create schedule {body['display_name']}", create, body)

    def delete_schedule(self, schedule_id: str) -> None:
        """Delete a recurring run; runs it began go on. One that is gone is no failure."""
        try:
            delete = self._schedules.recurring_run_service_delete_recurring_run
            self._call(f"delete schedule {schedule_id}", delete, schedule_id)
        except Gone:
            return

    def _made(self, what: str, find: Callable[[], Json | None], create: Callable[[], Json]) -> Json:
        """The object, found or created; of two who create at once, the second finds the first
        one's."""
        backoff = Backoff(self.patience)
        while True:
            found = find()
            if found is not None:
                return found
            try:
                return create()
            except (Taken, Lost) as error:
                if not backoff.wait():
                    raise Unreachable(
                        f"{self.access.endpoint}: {what} could not be made: {error}"
                    ) from None

    def _upload(self, pipeline: str, version: str, package: str) -> Json:
        with tempfile.TemporaryDirectory(prefix="ratchet-submit-") as folder:
            file = Path(folder) / "pipeline.yaml"
            file.write_text(package, encoding="utf-8")
            upload = self._uploads.upload_pipeline_version
            return self._create(
                f"upload version {version}",
                upload,
                str(file),
                name=version,
                display_name=version,
                pipelineid=pipeline,
            )

    def _find(
        self, method: Callable[..., Any], key: str, name: str, *arguments: Any
    ) -> Json | None:
        scope = (
            {"namespace": self.access.namespace} if self.access.namespace and not arguments else {}
        )
        found = self._list(method, key, name, *arguments, **scope)
        return found[0] if found else None

    def _list(
        self, method: Callable[..., Any], key: str, name: str, *arguments: Any, **scope: Any
    ) -> list[Json]:
        predicate = {"operation": _EQUALS, "key": "display_name", "stringValue": name}
        wanted = json.dumps({"predicates": [predicate]})
        found: list[Json] = []
        token = ""
        while True:
            page = self._call(
                f"list {key}",
                method,
                *arguments,
                filter=wanted,
                page_size=PAGE_SIZE,
                page_token=token,
                **scope,
            )
            # The server filters; compared again, because an older one may not.
            found += [one for one in page.get(key) or () if one.get("display_name") == name]
            token = str(page.get("next_page_token") or "")
            if not token:
                return found

    def _create(
        self, what: str, method: Callable[..., Any], *arguments: Any, **options: Any
    ) -> Json:
        return self._call(what, method, *arguments, creates=True, **options)

    def _call(
        self,
        what: str,
        method: Callable[..., Any],
        *arguments: Any,
        creates: bool = False,
        **options: Any,
    ) -> Json:
        """The answer's JSON, after as many tries as the patience allows."""
        patience = self.patience
        backoff = Backoff(patience)
        refused_since = patience.clock()
        while True:
            answer = self._try(what, method, arguments, options)
            if isinstance(answer, dict):
                return answer
            status, said = answer
            now = patience.clock()
            if status == 401:
                if self.access.token_file is None or now - refused_since > patience.refused_seconds:
                    raise UserError(
                        f"{self.access.endpoint} refuses the token ({said}); {self._cure()}"
                    )
            elif creates and status != 429:
                raise Lost(f"{what}: {said}")
            else:
                refused_since = now
            if not backoff.wait():
                raise Unreachable(
                    f"{self.access.endpoint} could not {what} for {patience.give_up_seconds:.0f} s: {said}; check the "
                    "address, the network and that Kubeflow Pipelines runs"
                )

    def _cure(self) -> str:
        if self.access.token_file is not None:
            return f"put a valid one into {self.access.token_file}"
        return "set KF_PIPELINES_TOKEN, or pass --token-file with a file that is renewed"

    def _try(
        self, what: str, method: Callable[..., Any], arguments: tuple[Any, ...], options: Json
    ) -> Json | tuple[int, str]:
        """The answer, or (status, words) of what may be tried again; status 0: no answer came."""
        from kfp_server_api.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        limits = (self.patience.connect_seconds, self.patience.answer_seconds)
        try:
            # The raw body: the client's models fail on values that are newer than they are.
            body = method(
                *arguments, **options, _preload_content=False, _request_timeout=limits
            ).data
        except ApiException as error:
            status = int(error.status or 0)
            if (
                status in PASSING
                or status == 401
                or (status == 0 and "CERTIFICATE" not in str(error.reason).upper())
            ):
                return status, f"{status or 'TLS'} {_words(error)}"
            raise self._refusal(what, status, _words(error)) from None
        except (HTTPError, OSError) as error:
            return 0, f"{type(error).__name__}: {_shown(str(error))}"
        try:
            found = json.loads(body or b"{}")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UserError(
                f"{self.access.endpoint} answers with a page, not as the API of Kubeflow Pipelines does: the address "
                f"is wrong, or a login stands before it ({self._cure()})"
            )
        return found

    def _refusal(self, what: str, status: int, words: str) -> Exception:
        endpoint, where = (
            self.access.endpoint,
            f" in namespace {self.access.namespace}" if self.access.namespace else "",
        )
        match status:
            case 409:
                return Taken(words)
            case 404 if "page not found" in words or not words:
                return UserError(
                    f"{endpoint} is not the API of Kubeflow Pipelines v2 (404); correct --endpoint"
                )
            case 404:
                return Gone(words)
            case 403:
                return UserError(
                    f"no permission to {what}{where}: {words}; ask for the role kubeflow-edit there, or correct "
                    "--namespace"
                )
            case 0:
                return UserError(
                    f"no trusted TLS connection to {endpoint}: {words}; set KF_PIPELINES_SSL_CA_CERTS to its CA"
                )
        return UserError(f"{endpoint} refuses to {what}{where}: {words}")


def _words(error: Any) -> str:
    body = error.body or b""
    text = body.decode("utf-8", errors="replace") if isinstance(body, bytes) else str(body)
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    message = said.get("message") or said.get("error") if isinstance(said, dict) else None
    return _shown(str(message or text or error.reason or ""))


def _shown(text: str) -> str:
    """Words of a server, fit for one line of a terminal."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[
        :LONGEST_MESSAGE
    ]
