"""What may be in an image, and who runs in it: rules that hold for every line of the Dockerfile."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
TARGETS = ("cpu", "generate", "generate-vllm", "train")
CACHES = (
    "HOME",
    "TMPDIR",
    "HF_HOME",
    "XDG_CACHE_HOME",
    "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "VLLM_CACHE_ROOT",
    "MPLCONFIGDIR",
)


def stage(name: str) -> str:
    """The lines of one build stage."""
    found = re.search(
        rf"^FROM \S+ AS {name}$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL
    )
    assert found, name
    return found[1]


def test_the_dockerfile_has_nothing_that_its_linter_minds() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--failure-threshold=style", ROOT / "docker" / "Dockerfile"],
        capture_output=True,
    )
    assert (done.returncode, done.stdout.decode()) == (0, "")


def test_images_run_as_a_numbered_user_and_begin_with_a_process_that_hears_signals() -> (
    None
):
    for target in TARGETS:
        lines = stage(target)
        assert re.findall(r"^USER (.+)$", lines, re.MULTILINE) == ["10001:10001"]
        assert re.search(
            r'^ENTRYPOINT \["/opt/venv/bin/python".*"/opt/ratchet/entry.py"\]$',
            lines,
            re.MULTILINE,
        )
        last = lines.strip().splitlines()[-1]
        assert re.match("RUN .*selfcheck.py", last), "the last layer is the self-check"


def test_final_stages_install_and_download_nothing() -> None:
    for name in (*TARGETS, "common", "torch", "runtime", "code"):
        assert not re.search(
            r"pip |apt|curl|wget|id=pip_conf|^ADD ", stage(name), re.MULTILINE
        ), name
    assert "apt-get" not in DOCKERFILE.replace(stage("build"), ""), (
        "compilers stay in the build stage"
    )


def test_every_package_comes_by_its_hash_and_secrets_are_mounts_alone() -> None:
    installs = re.findall(r"pip install (.*?)(?=&&|\n\n)", DOCKERFILE, re.DOTALL)
    assert len(installs) == 9
    assert all("--require-hashes" in one and "--no-deps" in one for one in installs)
    assert not re.search(
        r"^(ARG|ENV).*(TOKEN|SECRET|PASSWORD|INDEX)", DOCKERFILE, re.MULTILINE
    )
    assert "required=true" not in DOCKERFILE, "a build without secrets has to work"


def test_every_cache_is_below_the_only_folder_that_can_be_written() -> None:
    settings = dict(re.findall(r"^\s+([A-Z_]+)=(\S+)", stage("runtime"), re.MULTILINE))
    assert {name: settings[name].split("/")[1] for name in CACHES} == dict.fromkeys(
        CACHES, "tmp"
    )


def test_the_build_context_is_an_allow_list_of_sources_and_locks() -> None:
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and line[0] != "#"
    ]
    assert lines[0] == "*"
    allowed = {line for line in lines if line.startswith("!")}
    assert allowed == {
        "!components",
        "!components/cli/__init__.py",
        "!components/cli/collect",
        "!docker/requirements/*.lock",
        "!docker/wheels/*.whl",
        "!docker/wheels/.gitignore",
        "!docker/entry.py",
        "!docker/selfcheck.py",
        "!docker/slim.sh",
        "!docker/trim_nvidia.py",
        "!docker/cpu_adam.sh",
    }
