"""Experiments, pipelines, runs and recurring runs of Kubeflow Pipelines, for the cluster verbs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from components.cli.cluster.kfp_calls import (
    MAX_MESSAGE_CHARACTERS,
    Access,
    ApiCalls,
    ApiPatience,
    Gone,
    Method,
    NoSuchPath,
    parse_json,
)
from components.cli.json_documents import Json, nested
from components.errors import UserError, one_line

MAX_LOG_BYTES = 1 << 20
"""Of a longer log the end is read."""
_LOG_ERROR_BEGIN = '{"error_message":'


class Pipelines(ApiCalls):
    """The objects of one API server that a submission is made of. Answers are the server's JSON.

    Every method raises UserError for a refusal and Unreachable for a server that stays silent.
    """

    def __init__(self, access: Access, patience: ApiPatience) -> None:
        import kfp_server_api as api

        super().__init__(access, patience)
        self._health = api.HealthzServiceApi(self.client)
        self._experiments = api.ExperimentServiceApi(self.client)
        self._pipelines = api.PipelineServiceApi(self.client)
        self._uploads = api.PipelineUploadServiceApi(self.client)
        self._runs = api.RunServiceApi(self.client)
        self._recurring_runs = api.RecurringRunServiceApi(self.client)

    def health(self) -> Json:
        """Return the server's description of itself; the first contact."""
        return self.call(
            "ask for the server's health", self._health.healthz_service_get_healthz
        )

    def find_experiment(self, name: str) -> Json | None:
        """Return the experiment of this name, or None."""
        list_experiments = self._experiments.experiment_service_list_experiments
        return self._find(list_experiments, "experiments", name)

    def experiment(self, name: str) -> str:
        """Return the id of the experiment of this name, which is made if there is none."""
        method = self._experiments.experiment_service_create_experiment
        body = {"display_name": name, **self._namespace()}
        experiment = self.find_or_create(
            f"experiment {name}",
            lambda: self.find_experiment(name),
            lambda: self.create(f"create experiment {name}", method, body),
        )
        return str(experiment["experiment_id"])

    def version(self, pipeline: str, version: str, package: str) -> tuple[str, str]:
        """Return the ids of a pipeline and of its version, both made where they are missing.

        Args:
            pipeline: Name of the pipeline.
            version: Name of the version.
            package: YAML text of the version, for where it is missing.
        """
        # The name has a digest of the package: a version that is there has this content.
        pipeline_id = self._pipeline(pipeline)
        list_versions = self._pipelines.pipeline_service_list_pipeline_versions

        def find() -> Json | None:
            versions = self.list_named(
                list_versions, "pipeline_versions", version, pipeline_id
            )
            return versions[0] if versions else None

        uploaded = self.find_or_create(
            f"version {version} of pipeline {pipeline}",
            find,
            lambda: self._upload(pipeline_id, version, package),
        )
        return pipeline_id, str(uploaded["pipeline_version_id"])

    def _pipeline(self, name: str) -> str:
        list_pipelines = self._pipelines.pipeline_service_list_pipelines
        method = self._pipelines.pipeline_service_create_pipeline
        body = {"display_name": name, "name": name, **self._namespace()}
        pipeline = self.find_or_create(
            f"pipeline {name}",
            lambda: self._find(list_pipelines, "pipelines", name),
            lambda: self.create(f"create pipeline {name}", method, body),
        )
        return str(pipeline["pipeline_id"])

    def _upload(self, pipeline_id: str, version: str, package: str) -> Json:
        # The client uploads files alone.
        with tempfile.TemporaryDirectory(prefix="ratchet-submit-") as folder:
            file = Path(folder) / "pipeline.yaml"
            file.write_text(package, encoding="utf-8")
            return self.create(
                f"upload version {version}",
                self._uploads.upload_pipeline_version,
                str(file),
                name=version,
                display_name=version,
                pipelineid=pipeline_id,
            )

    def runs(self, experiment: str, name: str) -> list[Json]:
        """Return the runs of this name, archived ones left out, oldest first."""
        method = self._runs.run_service_list_runs
        runs = self.list_named(method, "runs", name, experiment_id=experiment)
        # The UI hides archived runs: whoever archived one of this name wants a new one.
        not_archived = [run for run in runs if run.get("storage_state") != "ARCHIVED"]
        return sorted(not_archived, key=lambda run: _age_key(run, "run_id"))

    def create_run(self, body: Json) -> Json:
        """Start a run. Raises Lost if it is not known whether it was started."""
        method = self._runs.run_service_create_run
        return self.create(f"create run {body['display_name']}", method, body)

    def run(self, run_id: str) -> Json:
        """Return a run. Raises Gone."""
        return self.call(f"get run {run_id}", self._runs.run_service_get_run, run_id)

    def workflow(self, run_id: str) -> Json:
        """Return the Argo Workflow of a run, with the messages of its nodes. Raises Gone."""
        answer = self.call(
            f"get the workflow of run {run_id}", self._get_run_v1beta1, run_id
        )
        document = json.loads(
            nested(answer, "pipeline_runtime").get("workflow_manifest") or "{}"
        )
        return document if isinstance(document, dict) else {}

    def _get_run_v1beta1(self, run_id: str, **options: Any) -> Any:
        # The generated client is of v2beta1, whose runs have no Workflow; the server has both.
        return self.client.call_api(
            "/apis/v1beta1/runs/{run_id}",
            "GET",
            {"run_id": run_id},
            header_params={"Accept": "application/json"},
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            **options,
        )

    def node_log(self, run_id: str, node_id: str) -> str:
        """Return the log of a pod of a run, from the pod or from Kubeflow's archive.

        Args:
            run_id: The run.
            node_id: Name of the pod or, for the archive, id of its node in the Workflow.

        Raises:
            UserError: There is none. The server says so with status 200 in a document at the end
                of the log.
            Gone: There is no such run.
        """
        body = self.call_for_bytes(
            f"read the log of {node_id}", self._get_node_log, run_id, node_id
        )
        log = body[-MAX_LOG_BYTES:].decode(errors="replace")
        # What stands before it is a part of the log; the document follows without a line's end.
        _, begin, details = log.rpartition(_LOG_ERROR_BEGIN)
        error = parse_json(begin + details) if begin else None
        if isinstance(error, dict):
            # Each layer of the server puts its own words before those of the one below it.
            cause = ": ".join(str(error["error_message"]).split(": ")[-2:]).lstrip(", ")
            message = one_line(cause, MAX_MESSAGE_CHARACTERS)
            raise UserError(f"no log of {node_id}: {message}")
        return log

    def log_from_ui(self, pod: str, day: str) -> str:
        """Return the log of a pod, as the server of Kubeflow's UI shows it.

        That server answers at the same address if it is the UI's, as it hands on calls of the API.

        Args:
            pod: Name of the pod.
            day: On which the run began, as 2026-11-30; archives are filed by it.

        Raises:
            UserError: The address is that of the API alone.
            Unreachable: There is none, or the server is away.
        """
        try:
            # It answers 500 for a log that is gone, too: asked again it says the same.
            with self.giving_up_after(0.0):
                body = self.call_for_bytes(
                    f"show the log of {pod}", self._get_log_from_ui, pod, day
                )
        except NoSuchPath:
            raise UserError(
                f"{self.access.endpoint} is not the address of Kubeflow's UI, whose server reads "
                "logs of pods"
            ) from None
        return body[-MAX_LOG_BYTES:].decode(errors="replace")

    def _get_log_from_ui(self, pod: str, day: str, **options: Any) -> Any:
        query = {"podname": pod, "createdat": day}
        if self.access.namespace:
            query["podnamespace"] = self.access.namespace
        return self.client.call_api(
            "/k8s/pod/logs",
            "GET",
            query_params=list(query.items()),
            header_params={"Accept": "text/plain"},
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            **options,
        )

    def _get_node_log(self, run_id: str, node_id: str, **options: Any) -> Any:
        # No API of the newer versions has logs.
        return self.client.call_api(
            "/apis/v1alpha1/runs/{run_id}/nodes/{node_id}/log",
            "GET",
            {"run_id": run_id, "node_id": node_id},
            header_params={"Accept": "text/plain"},
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            **options,
        )

    def delete_run(self, run_id: str) -> None:
        """Delete a run; one that is gone is no failure."""
        self._delete(f"delete run {run_id}", self._runs.run_service_delete_run, run_id)

    def schedules(self, experiment: str, name: str) -> list[Json]:
        """Return the recurring runs of this name, oldest first."""
        method = self._recurring_runs.recurring_run_service_list_recurring_runs
        # Unlike the other lists that are read here, the key of this answer is in camel case.
        schedules = self.list_named(
            method, "recurringRuns", name, experiment_id=experiment
        )
        return sorted(
            schedules, key=lambda schedule: _age_key(schedule, "recurring_run_id")
        )

    def create_schedule(self, body: Json) -> Json:
        """Make a recurring run. Raises Lost if it is not known whether it was made."""
        method = self._recurring_runs.recurring_run_service_create_recurring_run
        return self.create(f"create schedule {body['display_name']}", method, body)

    def runs_of_schedule(self, experiment: str, schedule_id: str) -> list[Json]:
        """Return the runs that a recurring run has begun."""
        method = self._runs.run_service_list_runs
        return self.list_where(
            method, "runs", "recurring_run_id", schedule_id, experiment_id=experiment
        )

    def disable_schedule(self, schedule_id: str) -> None:
        """Let a recurring run begin no more runs."""
        method = self._recurring_runs.recurring_run_service_disable_recurring_run
        self.call(f"disable schedule {schedule_id}", method, schedule_id)

    def delete_schedule(self, schedule_id: str) -> None:
        """Delete a recurring run, and with it the pods of the runs that it began.

        One that is gone is no failure.
        """
        method = self._recurring_runs.recurring_run_service_delete_recurring_run
        self._delete(f"delete schedule {schedule_id}", method, schedule_id)

    def _delete(self, action: str, method: Method, object_id: str) -> None:
        try:
            self.call(action, method, object_id)
        except Gone:
            return

    def _find(self, method: Method, key: str, name: str) -> Json | None:
        objects = self.list_named(method, key, name, **self._namespace())
        return objects[0] if objects else None

    def _namespace(self) -> dict[str, str]:
        """Return the field of a namespace; nothing where Kubeflow Pipelines has one user."""
        # A single-user backend throws the namespace away and starts pods in its own.
        return {"namespace": self.access.namespace} if self.access.namespace else {}


def _age_key(row: Json, id_key: str) -> tuple[str, str]:
    """Return the key that sorts objects by age."""
    # Times are whole seconds. The id decides between equals, so that two who began a run at once
    # take the same one for the first.
    created_at = str(row.get("created_at", ""))
    return created_at, str(row[id_key])
