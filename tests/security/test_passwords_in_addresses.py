"""Credentials inside addresses reach no message, record, progress line, traceback or recipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.contracts.recipe_file import parse_recipe, set_key
from components.errors import (
    RatchetError,
    Transient,
    UserError,
    one_line,
    without_passwords,
)
from components.runtime.attempts import Task, attempting
from components.runtime.context import Context
from components.runtime.progress import Progress
from components.storage import keys
from components.storage.store import open_store

CANARY = "canary-x7Qz"
ADDRESSES = [
    f"https://me:{CANARY}@mirror.example/api",
    f"https://{CANARY}@mirror.example",
    f"http://proxy-user:{CANARY}@127.0.0.1:3128",
    f"s3://AKIA:{CANARY}@bucket/prefix",
    f"s3://AKIA:{CANARY}/with/slashes@bucket/prefix",
    f"https://me:p%40{CANARY}@host:8443/path?query=1",
    f"socks5h://u:{CANARY}@[::1]:1080",
]
HARMLESS = [
    "https://mirror.example/api@v1",
    "http://127.0.0.1:9/simple",
    "http://localhost:8000/v1/models/me@x",
    "registry.example/team/train@sha256:0123",
    "mail me@example.org",
    "s3://bucket/prefix/a@b",
    "file:///folder/a@b",
    "ratio 1:2 @ 3",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("kind", [RatchetError, UserError, Transient])
def test_no_message_of_an_expected_failure_shows_a_password(
    address: str, kind: type[RatchetError]
) -> None:
    message = str(kind(f"cannot reach {address!r} ({address})"))
    assert CANARY not in message
    assert "***@" in message
    assert CANARY not in one_line(OSError(f"proxy {address} refused"))


@pytest.mark.parametrize("text", HARMLESS)
def test_text_without_a_password_stays_as_it_is(text: str) -> None:
    assert without_passwords(text) == text


@given(
    user=st.text("abcXYZ012-._~%", min_size=1, max_size=12),
    password=st.text("abcXYZ012-._~%!$&*+,;=:", min_size=1, max_size=20),
)
def test_any_password_is_hidden_and_the_host_is_kept(user: str, password: str) -> None:
    text = without_passwords(f"see http://{user}:{password}@host.example:80/x for more")
    assert text == "see http://***@host.example:80/x for more"


@pytest.mark.parametrize("address", ADDRESSES)
def test_progress_and_attempt_records_show_no_password(
    context: Context, tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "progress.jsonl"
    Progress(file=file).note(f"asking {address}")
    task = Task(run_id="r", name="train-r1", round=1)
    with pytest.raises(OSError, match="refused"), attempting(context, task, "train"):
        raise OSError(f"{address} refused")
    [record] = list(context.store.list(keys.attempts_prefix("r")))
    output = capsys.readouterr()
    written = [
        file.read_text(),
        context.store.get_bytes(record).decode(),
        output.err,
        output.out,
    ]
    assert CANARY not in "".join(written)


@pytest.mark.process
def test_the_traceback_of_a_bug_shows_no_password(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from components.runtime.entrypoints import step_context\n"
        "with step_context(sys.argv[1]):\n"
        "    address = sys.stdin.read()\n"
        "    raise RuntimeError(f'bad answer of {address}')\n"
    )
    command = [sys.executable, "-c", program, f"file://{tmp_path}/store"]
    done = subprocess.run(
        command,
        input=ADDRESSES[0],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "RuntimeError: bad answer of https://***@mirror.example/api" in done.stderr
    assert CANARY not in done.stderr


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "path", ["model.source", "model.system_prompt", "data.sources.0.uri"]
)
def test_a_recipe_is_no_place_for_a_password(address: str, path: str) -> None:
    document: dict[str, Any] = {
        "name": "mine",
        "model": {"source": "scratch", "system_prompt": ""},
        "data": {"sources": [{"uri": "file:///rows.jsonl"}]},
        "decide": {"goal": {"threshold": 0.9}},
    }
    parse_recipe(document)
    set_key(document, path, address)
    with pytest.raises(UserError, match=path) as caught:
        parse_recipe(document)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "address", [address for address in ADDRESSES if address.startswith("s3")]
)
def test_a_store_with_keys_in_its_address_is_refused_without_showing_them(
    address: str,
) -> None:
    with pytest.raises(UserError) as caught:
        open_store(address, {})
    assert CANARY not in str(caught.value)
