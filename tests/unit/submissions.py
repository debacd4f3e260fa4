"""Submissions of a package to a pretended Kubeflow Pipelines, as several tests make them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from components.cli.cluster.kfp_api import Pipelines
from components.cli.cluster.kfp_calls import ApiPatience
from components.cli.cluster.submit import Started, Submission, plan_submission
from components.cli.cluster.wait import follow
from components.cli.package.package_file import Package
from tests.doubles.kfp_api import Clock, KfpApi

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
STORE = "s3://bucket/prefix"
TOKEN = "a-token-that-no-message-may-show"


def patience(clock: Clock, **more: Any) -> ApiPatience:
    return ApiPatience(clock=clock, sleep=clock.sleep, answer_seconds=1.0, **more)


def wanted(package: Package, **more: Any) -> Submission:
    return plan_submission(
        package, {"store": STORE, **more.pop("parameters", {})}, commit=COMMIT, **more
    )


def watch(
    pipelines: Pipelines, started: Started, seconds: float | None = None
) -> tuple[str, int, list[str]]:
    heard: list[str] = []
    ended, status = follow(pipelines, started, seconds, heard.append)
    return ended.state, status, heard


def cli(
    kfp: KfpApi, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RATCHET_", "KF_", "AWS_"))
    }
    return subprocess.run(
        [sys.executable, str(ROOT / "pipeline.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={
            **kept,
            "KF_PIPELINES_ENDPOINT": kfp.endpoint,
            "NO_PROXY": "127.0.0.1",
            "NO_COLOR": "1",
            **variables,
        },
    )
