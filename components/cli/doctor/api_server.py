"""The Kubernetes API server as `doctor` and `serve` ask it: any path, any answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from components.cli.json_documents import Json
from components.errors import Transient, UserError
from components.train.launch.cluster_api import PASSING, Cluster, LaunchPatience


class ApiServer(Cluster):
    """The API server, asked without retries."""

    account = ""
    """`system:serviceaccount:<namespace>:<name>` to ask as; empty: as who we are."""

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], patience: LaunchPatience | None = None
    ) -> ApiServer:
        """Return the cluster this pod runs in, else the one of KUBECONFIG.

        Raises UserError if there is neither.
        """
        try:
            server = super().from_environment(environment, patience)
        except UserError as error:
            # The launcher's own words are about train.num_nodes.
            reason = str(error.__cause__ or error)
            cure = "set KUBECONFIG to the file of a cluster, or run this in a pod"
            if environment.get("KUBECONFIG"):
                cure = "correct KUBECONFIG, or unset it"
            raise UserError(f"no cluster can be spoken to ({reason}); {cure}") from None
        assert isinstance(server, cls)
        return server

    def ask(
        self, path: str, body: Json | None = None, *, accept: str = "application/json"
    ) -> tuple[int, Json]:
        """Return (HTTP status, document) of a GET, or of a POST of `body`.

        Raises:
            UserError: The server cannot be reached or trusted, or refuses the credentials.
            Transient: It cannot answer now.
        """
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = "application/json"
            # Only questions about rights are asked as the account of the runs: it may not read what
            # the other checks read.
            if self.account:
                headers["Impersonate-User"] = self.account
        return self._request("GET" if body is None else "POST", path, headers, body)

    def apply(self, path: str, body: Json, manager: str) -> tuple[int, Json]:
        """Return (HTTP status, document) of a server-side apply, which takes over its fields.

        Args:
            path: Path of the object.
            body: The fields that the manager wants, and no others.
            manager: Name of the field manager.

        Raises:
            UserError, Transient: As `ask`.
        """
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/apply-patch+yaml",
        }
        query = [
            ("fieldManager", manager),
            ("force", "true"),
            ("fieldValidation", "Strict"),
        ]
        return self._request("PATCH", path, headers, body, query)

    def _request(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: Json | None,
        query: Sequence[tuple[str, str]] = (),
    ) -> tuple[int, Json]:
        """Return (HTTP status, document) of one request."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            response = self._core.api_client.call_api(
                path,
                method,
                query_params=list(query),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _request_timeout=(
                    self.patience.connect_seconds,
                    self.patience.answer_seconds,
                ),
                _preload_content=False,
                _return_http_data_only=True,
            )
            return 200, _document(response.data)
        except ApiException as error:
            self._raise_unless_answer(error.status)
            return int(error.status), _document(error.body)
        except (HTTPError, OSError) as error:
            raise UserError(
                f"{self.server} cannot be reached ({type(error).__name__}); check KUBECONFIG, the "
                "network and proxies"
            ) from None

    def _raise_unless_answer(self, status: int) -> None:
        """Raise for a status that says nothing about the object that was asked for."""
        if status == 401:
            raise UserError(
                f"{self.server} refuses these credentials (401); renew those of KUBECONFIG"
            )
        # The client's status for a TLS connection that was not made.
        if status == 0:
            raise UserError(
                f"no trusted TLS connection to {self.server}; check its certificate authority"
            )
        if status in PASSING:
            raise Transient(f"{self.server} cannot answer now ({status}); try again")


def _document(body: str | bytes | None) -> Json:
    """Return a body as a document; an empty one for a body that is none."""
    try:
        document = json.loads(body or b"{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
