"""What `run --runner docker` refuses before it starts anything, and what it tells the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.cli.local.docker_runner import Containers, check_engine, settings
from components.errors import UserError

STORE = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_ENDPOINT_URL_S3": "https://s3.example",
}


def test_a_store_in_a_folder_is_refused() -> None:
    with pytest.raises(UserError, match="containers do not see; use s3://"):
        check_engine("file:///tmp/store", Containers(), STORE)


def test_credentials_in_a_profile_file_are_refused() -> None:
    with pytest.raises(UserError, match="set AWS_ACCESS_KEY_ID"):
        check_engine("s3://bucket/prefix", Containers(), {})


def test_without_an_engine_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(
        UserError, match=r"no Docker engine answers .*; start it or set DOCKER_HOST"
    ):
        check_engine("s3://bucket/prefix", Containers(), STORE)


@pytest.mark.parametrize("memory", ["", "8", "lots", "-1g", "8 g"])
def test_a_limit_that_is_no_size_is_refused(memory: str) -> None:
    with pytest.raises(UserError, match=r"--memory .*as in 8g"):
        check_engine("s3://bucket/prefix", Containers(memory), STORE)


def test_a_container_is_confined_and_knows_only_what_a_step_needs() -> None:
    told = settings(
        "run",
        Containers("2g"),
        {**STORE, "GITHUB_TOKEN": "t", "KUBECONFIG": "k", "RATCHET_CACHE": "/c"},
    )
    assert (told["read_only"], told["cap_drop"], told["security_opt"]) == (
        True,
        ["ALL"],
        ["no-new-privileges"],
    )
    assert (told["mem_limit"], told["memswap_limit"], told["pids_limit"]) == (
        "2g",
        "2g",
        512,
    )
    assert not told["user"].startswith("0:")
    assert told["environment"] == STORE


@pytest.mark.parametrize(
    ("endpoint", "network"),
    [
        ("http://127.0.0.1:8333", "host"),
        ("http://localhost:1", "host"),
        ("http://[::1]:1", "host"),
        ("https://s3.example", "bridge"),
        ("", "bridge"),
    ],
)
def test_containers_join_this_machines_network_only_for_a_store_on_it(
    endpoint: str, network: str
) -> None:
    assert (
        settings("run", Containers(), {"AWS_ENDPOINT_URL_S3": endpoint})["network_mode"]
        == network
    )
    environment = {"AWS_ENDPOINT_URL_S3": endpoint}
    started = settings("run", Containers(network="own"), environment)
    assert started["network_mode"] == "own"
