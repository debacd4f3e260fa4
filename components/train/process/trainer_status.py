"""Progress of a training in the status of its TrainJob, where Kubeflow Trainer asks for it.

With its feature gate TrainJobStatus, Trainer 2.2 and later gives each pod of a TrainJob the address
of its own status server. Like all live numbers, a report is a courtesy: a server that does not
answer is named once, costs at most PATIENCE_SECONDS a try, and ends no training.
"""

from __future__ import annotations

import datetime
import http.client
import json
import math
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from components.errors import first_line
from components.runtime.context import Context

URL = "KUBEFLOW_TRAINER_SERVER_URL"
CA_FILE = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
TOKEN_FILE = "KUBEFLOW_TRAINER_SERVER_TOKEN"
"""Variables that the Trainer sets in the pods of a TrainJob."""
PAUSE_SECONDS = 5.0
"""Shortest time between two reports, as the Trainer asks for."""
PAUSE_AFTER_FAILURE_SECONDS = 60.0
PATIENCE_SECONDS = 3.0


class TrainerStatus:
    """Reports of process 0 to the Trainer's status server."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._url = context.environment.get(URL, "")
        self._next_report = -math.inf
        self._begun: tuple[int, float] | None = None
        self._has_noted = False

    def report(self, step: int, num_steps: int, numbers: Mapping[str, float]) -> None:
        """Report the numbers of a step; those within PAUSE_SECONDS of the last are left out."""
        if not self._url:
            return
        seconds = self._context.clock()
        if self._begun is None:
            self._begun = (step, seconds)
        is_last = step == num_steps
        if seconds < self._next_report and not is_last:
            return
        self._next_report = seconds + PAUSE_SECONDS
        begun_step, begun_seconds = self._begun
        pace = (seconds - begun_seconds) / max(step - begun_step, 1)
        status = {
            "progressPercentage": 100 * step // max(num_steps, 1),
            "estimatedRemainingSeconds": int(pace * (num_steps - step)),
            "metrics": [
                {"name": name, "value": f"{number:.6g}"}
                for name, number in numbers.items()
            ],
            "lastUpdatedTime": _as_text(seconds),
        }
        # Before the second step nothing is known of the pace.
        if step == begun_step and not is_last:
            del status["estimatedRemainingSeconds"]
        problem = self._send({"trainerStatus": status})
        if problem:
            self._next_report = seconds + PAUSE_AFTER_FAILURE_SECONDS
            if not self._has_noted:
                self._has_noted = True
                self._context.progress.note(
                    f"the TrainJob's status is not updated: {problem}"
                )

    def _send(self, document: Mapping[str, object]) -> str:
        """Send a report, and return what went wrong; empty if nothing did."""
        environment = self._context.environment
        headers = {"Content-Type": "application/json"}
        try:
            # Read anew: the token is replaced before it expires.
            token_file = environment.get(TOKEN_FILE)
            if token_file:
                token = Path(token_file).read_text(encoding="utf-8").strip()
                headers["Authorization"] = f"Bearer {token}"
            trust = None
            if self._url.startswith("https://"):
                trust = ssl.create_default_context(
                    cafile=environment.get(CA_FILE) or None
                )
            body = json.dumps(document).encode()
            request = urllib.request.Request(self._url, body, headers, method="POST")
            with urllib.request.urlopen(
                request, timeout=PATIENCE_SECONDS, context=trust
            ):
                return ""
        except urllib.error.HTTPError as error:
            error.close()
            return f"the Trainer answered {error.code}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"{type(error).__name__}: {first_line(error)}"


def _as_text(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
