from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from components.errors import UserError
from components.storage.sources import local_folder, local_path, model_version

if TYPE_CHECKING:
    from tests.conftest import S3Server


def test_a_file_uri_is_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "my rows.jsonl"
    path.write_text("x")
    assert local_path(f"file://{path}", {}, tmp_path) == path
    assert local_path(f"file://{tmp_path}/my%20rows.jsonl", {}, tmp_path) == path
    assert local_folder(f"file://{tmp_path}", {}, tmp_path) == tmp_path


def test_paths_are_paths_and_the_tilde_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "50% of my#rows?.jsonl"
    path.write_text("x")
    home = {"HOME": str(tmp_path)}
    monkeypatch.chdir(tmp_path)
    for uri in (path.name, f"./{path.name}", str(path), f"~/{path.name}"):
        assert local_path(uri, home, tmp_path).read_text() == "x"
    assert local_folder("~", home, tmp_path) == tmp_path
    assert local_folder(f"{tmp_path}/", home, tmp_path) == tmp_path


def test_a_model_of_the_hub_by_its_bare_name_gets_the_uri_that_was_meant(
    tmp_path: Path,
) -> None:
    for name in ("gpt2", "HuggingFaceTB/SmolLM2-135M-Instruct@main"):
        with pytest.raises(UserError, match=rf"hf://{name.split('@')[0]}@REVISION"):
            local_folder(name, {}, tmp_path)


def test_a_package_uri_is_a_file_of_an_installed_package_which_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "trap_package"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "data" / "rows.jsonl").write_text("x")
    monkeypatch.syspath_prepend(tmp_path)
    assert (
        local_path("package://trap_package/data/rows.jsonl", {}, tmp_path).read_text()
        == "x"
    )
    assert local_folder("package://trap_package/data", {}, tmp_path).is_dir()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("rows.jsonl", "no such file .looked at /.*/rows.jsonl"),
        ("~/rows.jsonl", "no such file .looked at /home/me/rows.jsonl"),
        ("https://example.org/rows.jsonl", "use a path, file://path"),
        ("s3:/bucket/rows.jsonl", "use a path, file://path"),
        ("file://", "use a path, file://path"),
        ("file:///nowhere/rows.jsonl", "no such file"),
        ("file:///tmp", "is a folder; name one file"),
        ("package://no_such_package/rows.jsonl", "no Python package 'no_such_package'"),
        ("package://json/../os.py", "inside one installed"),
        ("package://json", "inside one installed"),
        ("package://json/rows.jsonl", "no such file"),
        ("s3://bucket", "name one object"),
        ("hf://org/name/rows.jsonl", "a revision"),
        ("hf://org/name@main", "name one file"),
        ("hf://org/name@main/../../x", "hf://"),
    ],
)
def test_a_uri_that_cannot_be_used_is_an_error_that_names_it(
    uri: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        local_path(uri, {"HOME": "/home/me"}, tmp_path)
    assert uri in str(caught.value)


def test_files_and_folders_of_a_bucket_are_downloaded_without_pickles(
    s3_server: S3Server, tmp_path: Path
) -> None:
    uri = s3_server.new_uri()
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        s3_server.client().put_object(
            Bucket=bucket, Key=f"{prefix}/{name}", Body=name.encode()
        )
    environment = s3_server.environment
    assert (
        local_path(f"{uri}/config.json", environment, tmp_path).read_text()
        == "config.json"
    )
    folder = local_folder(uri, environment, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    for name in ("data#1/rows.jsonl", "why?.jsonl", "50%/a b.jsonl", "#.jsonl"):
        s3_server.client().put_object(
            Bucket=bucket, Key=f"{prefix}/{name}", Body=name.encode()
        )
        assert local_path(f"{uri}/{name}", environment, tmp_path).read_text() == name
    with pytest.raises(UserError, match=r"gone.jsonl: no such object"):
        local_path(f"{uri}/gone.jsonl", environment, tmp_path)
    with pytest.raises(UserError, match="nowhere: no model files"):
        local_folder(f"{uri}/nowhere", environment, tmp_path)


def test_a_model_that_is_replaced_under_its_uri_has_another_version(
    s3_server: S3Server, tmp_path: Path
) -> None:
    uri = s3_server.new_uri()
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")

    def replace_weights(content: bytes) -> set[str]:
        """Replace those in the bucket and in a folder, and return their versions."""
        s3_server.client().put_object(
            Bucket=bucket, Key=f"{prefix}/w.safetensors", Body=content
        )
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "w.safetensors").write_bytes(content)
        sources = (uri, str(tmp_path / "model"))
        return {
            model_version(source, s3_server.environment, tmp_path) for source in sources
        }

    first = replace_weights(b"first")
    assert replace_weights(b"first") == first
    assert not first & replace_weights(b"other")
