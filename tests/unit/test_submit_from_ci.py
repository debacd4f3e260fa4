"""Retraining from CI: the workflow asks for as little as it needs, and the script that other
systems share works."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from components.cli.package.profiles import profile_names
from tests.conftest import S3Server
from tests.doubles.kfp_api import KfpApi
from tests.doubles.served import Served
from tests.waiting import wait_until

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "retrain.yaml"
SCRIPT = ROOT / "manifests" / "ci" / "retrain.sh"
needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None,
    reason="no curl on this machine, by which retrain.sh gets tokens",
)


def workflow() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(
        WORKFLOW.read_text(), Loader=yaml.BaseLoader
    )  # `on` is no truth value
    return found


def test_the_workflow_begins_by_hand_by_the_clock_and_when_data_change() -> None:
    assert set(workflow()["on"]) == {"workflow_dispatch", "schedule", "push"}
    assert set(workflow()["on"]["push"]) == {"branches", "paths"}
    choices = workflow()["on"]["workflow_dispatch"]["inputs"]["profile"]["options"]
    assert sorted(choices) == profile_names()


def test_the_workflow_has_the_least_rights_and_never_two_at_a_time() -> None:
    document = workflow()
    assert document["permissions"] == {}
    assert {name: job["permissions"] for name, job in document["jobs"].items()} == {
        "retrain": {"contents": "read", "id-token": "write"},
        # It takes a person's approval, and no rights of this repository.
        "deploy": {},
    }
    assert document["jobs"]["deploy"]["environment"] == "production"
    assert (
        document["jobs"]["deploy"]["if"] == "needs.retrain.outputs.promoted == 'true'"
    )
    assert document["concurrency"] == {
        "group": "retrain",
        "cancel-in-progress": "false",
    }
    assert "secrets." not in WORKFLOW.read_text()


def test_actions_are_pinned_and_what_people_type_is_no_code() -> None:
    steps = workflow()["jobs"]["retrain"]["steps"]
    used = re.findall(r"uses: (\S+)(.*)", WORKFLOW.read_text())
    assert len(used) == sum("uses" in step for step in steps) == 3
    for action, comment in used:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action
    assert not any("${{" in step.get("run", "") for step in steps)
    assert steps[0]["with"]["persist-credentials"] == "false"


def test_zizmor_finds_nothing_in_the_workflows() -> None:
    beside = Path(sys.executable).parent / "zizmor"
    done = subprocess.run(
        [
            str(beside),
            "--offline",
            "--persona=pedantic",
            "--no-progress",
            str(WORKFLOW.parent),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_script_is_plain_shell_and_passes_every_variable_of_the_workflow_on() -> (
    None
):
    for shell in ("sh", "bash"):
        subprocess.run([shell, "-n", str(SCRIPT)], check=True)
    assert os.access(SCRIPT, os.X_OK)
    given = next(
        step["env"] for step in workflow()["jobs"]["retrain"]["steps"] if "env" in step
    )
    text = SCRIPT.read_text()
    for name in given:
        assert name in text or name == "AWS_REGION", name


class Tokens(Served):
    """What hands out identity tokens to a job of GitHub Actions."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                audience = parse_qs(urlsplit(self.path).query)["audience"][0]
                tokens.asked.append((audience, self.headers["Authorization"]))
                body = json.dumps(
                    {"count": 1, "value": f"token-for-{audience}"}
                ).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.serve(Handler)
        self.url = f"{self.endpoint}/token?v=1"


@pytest.fixture
def tokens() -> Iterator[Tokens]:
    server = Tokens()
    yield server
    server.close()


def environment(kfp: KfpApi, folder: Path, **more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RATCHET_", "KF_", "AWS_"))
    }
    return {
        **kept,
        "KF_PIPELINES_ENDPOINT": kfp.endpoint,
        "PYTHON": sys.executable,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "TMPDIR": str(folder),
        "SUMMARY": str(folder / "summary.md"),
        "OUTPUTS": str(folder / "outputs"),
        "STAGES": "submit",
        "PROFILE": "cpu",
        **more,
    }


@pytest.fixture
def package() -> Iterator[Path]:
    """The package that the script submits where its compilation is left out."""
    file = ROOT / "out" / "pipeline.yaml"
    before = file.read_bytes() if file.exists() else None
    yield file
    if before is None:
        file.unlink(missing_ok=True)
        if file.parent.is_dir() and not list(file.parent.iterdir()):
            file.parent.rmdir()
    else:
        file.write_bytes(before)


def of_workflow(
    kfp: KfpApi, tokens: Tokens, s3_server: S3Server, folder: Path
) -> dict[str, str]:
    """Variables of a workflow that compiles and submits, and asks its own server for a token."""
    return environment(
        kfp,
        folder,
        STAGES="compile submit",
        RATCHET_STORE=s3_server.new_uri(),
        KFP_AUDIENCE="kubeflow",
        ACTIONS_ID_TOKEN_REQUEST_URL=tokens.url,
        ACTIONS_ID_TOKEN_REQUEST_TOKEN="asks",
        **s3_server.environment,
    )


@needs_curl
def test_the_script_compiles_submits_waits_and_leaves_the_verdict_but_no_token(
    kfp: KfpApi, tokens: Tokens, s3_server: S3Server, package: Path, tmp_path: Path
) -> None:
    kfp.states, kfp.tokens = ["RUNNING", "SUCCEEDED"], {"token-for-kubeflow"}
    variables = of_workflow(kfp, tokens, s3_server, tmp_path)
    done = subprocess.run(
        [str(SCRIPT)], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [run] = kfp.all("runs")
    assert (
        run["namespace"]
        if "namespace" in run
        else kfp.all("experiments")[0]["namespace"]
    ) == "ratchet"
    text = (tmp_path / "summary.md").read_text()
    assert (
        f"[{run['run_id']}]({kfp.endpoint}/#/runs/details/{run['run_id']}): SUCCEEDED"
        in text
    )
    assert "No step left a record in the store." in text
    outputs = dict(
        line.split("=", 1) for line in (tmp_path / "outputs").read_text().splitlines()
    )
    assert outputs == {
        "run": run["run_id"],
        "promoted": "",
        "model": "",
        "verdict": "SUCCEEDED",
    }
    assert tokens.asked == [("kubeflow", "bearer asks")]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["outputs", "summary.md"]
    assert "token-for" not in done.stdout + done.stderr


def test_the_script_says_what_it_needs_before_it_begins(
    kfp: KfpApi, tmp_path: Path
) -> None:
    done = subprocess.run(
        [str(SCRIPT)],
        env={**environment(kfp, tmp_path), "RATCHET_STORE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "RATCHET_STORE: set it to s3://bucket/prefix" in done.stderr
    assert kfp.requests == []


@needs_curl
def test_a_script_that_is_stopped_leaves_no_process_and_no_token(
    kfp: KfpApi, tokens: Tokens, s3_server: S3Server, package: Path, tmp_path: Path
) -> None:
    kfp.states, kfp.tokens = ["RUNNING"], {"token-for-kubeflow"}
    variables = of_workflow(kfp, tokens, s3_server, tmp_path)
    process = subprocess.Popen(
        [str(SCRIPT)], env=variables, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        wait_until(lambda: any("/runs/" in path for _, path in kfp.requests), process)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait() == 143
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []
    assert len(kfp.all("runs")) == 1


def test_a_push_trains_what_it_changed_and_what_names_data_that_it_changed(
    kfp: KfpApi, s3_server: S3Server, tmp_path: Path
) -> None:
    """In a repository of its own; what its data/ holds is in the store then."""
    folder = tmp_path / "repository"
    script = folder / "manifests" / "ci" / SCRIPT.name
    script.parent.mkdir(parents=True)
    script.write_bytes(SCRIPT.read_bytes())
    (folder / "pipeline.py").symlink_to(ROOT / "pipeline.py")
    demo = (ROOT / "recipes" / "demo.yaml").read_text()
    for name in ("demo", "mine", "reads", "untouched"):
        text = demo.replace("name: demo", f"name: {name}")
        if name == "reads":
            text = text.replace(
                "data:\n", "data:\n  sources: [{uri: data/zeilen-ü.jsonl}]\n"
            )
        write(folder / "recipes" / f"{name}.yaml", text)
    write(folder / "data" / "zeilen-ü.jsonl", '{"prompt": "1+1", "answer": "2"}\n')
    commits = [committed(folder)]
    write(
        folder / "recipes" / "mine.yaml",
        demo.replace("name: demo", "name: mine") + "\n",
    )
    write(folder / "data" / "zeilen-ü.jsonl", '{"prompt": "1+2", "answer": "3"}\n')
    commits.append(committed(folder))
    write(folder / "data" / "unread.jsonl", "{}\n")
    commits.append(committed(folder))
    write(folder / "recipes" / "broken.yaml", "name: broken\nunknown: 1\n")
    write(folder / "recipes" / "demo.yaml", demo + "\n")

    def trained(before: str, status: int = 0) -> tuple[list[str], str]:
        variables = environment(kfp, tmp_path, STAGES="compile", BEFORE=before)
        store = s3_server.new_uri()
        done = subprocess.run(
            ["sh", str(script)],
            env={**variables, "RATCHET_STORE": store, **s3_server.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return re.findall(r"run ([a-z]+)-[0-9a-f]{10}", done.stdout), done.stderr

    names, said = trained(commits[0])
    assert names == ["mine", "reads"]
    assert "data/zeilen-ü.jsonl: sending" in said
    names, said = trained(commits[1])
    assert names == []
    assert "nothing to train" in said
    # As a new branch has it.
    assert trained("0" * 40)[0] == ["demo"]
    # What cannot be trained keeps nothing else from it.
    committed(folder)
    assert trained(commits[2], status=2)[0] == ["demo"]


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def committed(folder: Path) -> str:
    """Commit all that is there; return the commit."""
    as_somebody = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    for words in (("init", "-q"), ("add", "-A"), (*as_somebody, "commit", "-qm", "x")):
        subprocess.run(["git", *words], cwd=folder, check=True)
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
