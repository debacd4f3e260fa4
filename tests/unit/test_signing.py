"""`manifests/ci/sign.sh` signs releases and images, and notices what was changed afterwards.

With the program cosign where there is one on PATH, which then works offline with a key of the test;
always with a stand-in that "signs" by a digest, for what the script itself does.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.runtime.context import Context
from components.runtime.ledger import append_line
from tests.unit.announced import NAME, release

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "manifests" / "ci" / "sign.sh"
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer/vocab.txt": b"a",
}
STAND_IN = """#!/bin/sh
echo "$*" >>"$LOG"
for last in "$@"; do
    if [ "$before" = --bundle ]; then bundle=$last; fi
    before=$last
done
case $1 in
    sign-blob) sha256sum <"$last" >"$bundle" ;;
    verify-blob) sha256sum <"$last" | cmp -s - "$bundle" ;;
esac
"""
OFFLINE = {
    "sign": "--use-signing-config=false --tlog-upload=false",
    "verify": "--insecure-ignore-tlog",
}
Sign = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["stand-in", "cosign"])
def sign(request: pytest.FixtureRequest, tmp_path: Path, context: Context) -> Sign:
    """Return a call of the script, with the stand-in or with cosign and a key."""
    commands = tmp_path / "bin"
    commands.mkdir()
    variables: dict[str, str] = {}
    if request.param == "stand-in":
        (commands / "cosign").write_text(STAND_IN)
        (commands / "cosign").chmod(0o755)
        variables["IDENTITY"] = (
            "https://github.com/owner/repo/.github/workflows/retrain.yaml"
        )
    elif shutil.which("cosign") is None:
        pytest.skip("no cosign on this machine")
    else:
        password = {**os.environ, "COSIGN_PASSWORD": ""}
        make = [
            "cosign",
            "generate-key-pair",
            "--output-key-prefix",
            str(tmp_path / "test"),
        ]
        subprocess.run(make, env=password, check=True, capture_output=True)
        variables = {
            "COSIGN_PASSWORD": "",
            "COSIGN_KEY": str(tmp_path / "test.key"),
            "COSIGN_PUBLIC_KEY": str(tmp_path / "test.pub"),
        }

    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        kind = "verify" if arguments[0].startswith("verify") else "sign"
        options = OFFLINE[kind] if request.param == "cosign" else ""
        return subprocess.run(
            [str(SCRIPT), *arguments],
            env={
                **os.environ,
                "PATH": f"{commands}:{os.environ['PATH']}",
                "LOG": str(tmp_path / "log"),
                "PYTHON": sys.executable,
                "RATCHET_STORE": context.store.root,
                "SIGNATURES": str(tmp_path / "signatures"),
                "COSIGN_OPTIONS": options,
                **variables,
                **more,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.fixture
def folder(context: Context, tmp_path: Path) -> Path:
    """Return a copy of a release's folder; the ledger has its line."""
    digests = {
        name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()
    }
    assert append_line(context, release(1, files=digests))
    copy = tmp_path / "copy"
    for name, content in FILES.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    return copy


VERSION = release(1).version


def test_a_release_is_signed_and_a_copy_of_it_verified(
    sign: Sign, folder: Path, tmp_path: Path
) -> None:
    signed = sign("release", NAME, VERSION)
    assert signed.returncode == 0, signed.stderr
    names = {path.name for path in (tmp_path / "signatures").iterdir()}
    assert names == {f"{NAME}-{VERSION}.sha256", f"{NAME}-{VERSION}.sigstore.json"}
    verified = sign("verify-release", NAME, VERSION, str(folder))
    assert verified.returncode == 0, verified.stderr


def test_what_a_run_released_is_signed_by_its_outputs_and_of_another_run_nothing(
    sign: Sign, folder: Path, tmp_path: Path
) -> None:
    outputs = tmp_path / "outputs"
    earlier = "run=a\npromoted=true\nmodel=s3://b/models/earlier/v1/\nverdict=x\n"
    released = f"promoted=true\nmodel=s3://b/p/models/{NAME}/{VERSION}/\n"
    for text in (f"{earlier}promoted=false\nmodel=\n", "promoted=\nmodel=\n", ""):
        outputs.write_text(text)
        done = sign("outputs", str(outputs))
        assert (done.returncode, "nothing to sign" in done.stderr) == (0, True)
    assert not (tmp_path / "signatures").exists()
    outputs.write_text(earlier + released)
    assert sign("outputs", str(outputs)).returncode == 0
    assert len(list((tmp_path / "signatures").iterdir())) == 2
    assert sign("verify-release", NAME, VERSION, str(folder)).returncode == 0


def changed_weights(folder: Path, lists: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"other weights")


def a_file_more(folder: Path, lists: Path) -> None:
    (folder / "modeling.py").write_text("print('code')\n")


def a_file_less(folder: Path, lists: Path) -> None:
    (folder / "config.json").unlink()


def another_list(folder: Path, lists: Path) -> None:
    """Weights and list fit each other, and not the signature."""
    changed_weights(folder, lists)
    digests = {name: (folder / name).read_bytes() for name in FILES}
    (path,) = lists.glob("*.sha256")
    path.write_text(
        "".join(
            f"{hashlib.sha256(new).hexdigest()}  {name}\n"
            for name, new in digests.items()
        )
    )


def no_signature(folder: Path, lists: Path) -> None:
    (path,) = lists.glob("*.sigstore.json")
    path.unlink()


@pytest.mark.parametrize(
    "change", [changed_weights, a_file_more, a_file_less, another_list, no_signature]
)
def test_what_was_changed_after_it_was_signed_is_not_verified(
    sign: Sign, folder: Path, tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    assert sign("release", NAME, VERSION).returncode == 0
    change(folder, tmp_path / "signatures")
    assert sign("verify-release", NAME, VERSION, str(folder)).returncode != 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("release", NAME, "v9"), "has no release 'v9'"),
        (("release", "nobody", VERSION), "nothing was released under the name"),
        (("release", "../up", VERSION), "not a name and a version"),
        (("release", NAME), "usage: sign.sh"),
        (("images",), "docker/images.toml has no digest"),
        ((), "usage: sign.sh"),
    ],
)
def test_wrong_usage_is_told_in_a_line_and_signs_nothing(
    sign: Sign, folder: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = sign(*arguments) if arguments else sign("")
    assert done.returncode == 2
    assert said in done.stderr
    assert not list((tmp_path / "signatures").glob("*.sigstore.json"))


@pytest.mark.parametrize("sign", ["stand-in"], indirect=True)
def test_keyless_needs_an_identity_to_verify_and_none_to_sign(
    sign: Sign, folder: Path, tmp_path: Path
) -> None:
    assert sign("release", NAME, VERSION, IDENTITY="").returncode == 0
    refused = sign("verify-release", NAME, VERSION, str(folder), IDENTITY="")
    assert refused.returncode != 0
    assert (
        "IDENTITY: set it to who must have signed, or COSIGN_PUBLIC_KEY"
        in refused.stderr
    )
    assert sign("verify-release", NAME, VERSION, str(folder)).returncode == 0
    signing, verifying = (tmp_path / "log").read_text().splitlines()
    assert signing.startswith("sign-blob --yes --bundle ")
    assert "--certificate-identity https://github.com/owner/repo/" in verifying
    assert (
        "--certificate-oidc-issuer https://token.actions.githubusercontent.com"
        in verifying
    )


@pytest.mark.parametrize("sign", ["stand-in"], indirect=True)
def test_images_are_signed_by_the_digest_that_the_registry_gave_them(
    sign: Sign, tmp_path: Path
) -> None:
    """In a checkout whose images.toml has digests; a family without one was not pushed."""
    checkout = tmp_path / "checkout"
    for path in ("manifests/ci/sign.sh", "docker/images.toml"):
        (checkout / path).parent.mkdir(parents=True)
        shutil.copy(ROOT / path, checkout / path)
    images = checkout / "docker" / "images.toml"
    parts = images.read_text().split("[families.")
    parts[1] = parts[1].replace('digest = ""', f'digest = "sha256:{"ab" * 32}"')
    images.write_text("[families.".join(parts))
    script = str(checkout / "manifests" / "ci" / "sign.sh")
    variables = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "LOG": str(tmp_path / "log"),
        "IDENTITY": "me",
    }
    for verb in ("images", "verify-images"):
        subprocess.run([script, verb], env=variables, check=True, capture_output=True)
    signing, verifying = (tmp_path / "log").read_text().splitlines()
    reference = f"ratchet/cpu@sha256:{'ab' * 32}"
    assert signing == f"sign --yes {reference}"
    assert verifying.startswith("verify --certificate-identity me ")
    assert verifying.endswith(reference)
