"""The set-up of a machine that has nothing: real pip, against a small package index on loopback."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import runpy
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.benchmarks import from_nothing
from tests.mounts import with_small

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "environment.py"
ROOM = '{"environment": 8, "temporary files": 2}'
NVIDIA = 'nvidia-thing==1.0; platform_system == "Linux"'


def wheel(folder: Path, name: str, version: str, *requires: str) -> Path:
    """Write a package of one module; two versions of one name differ in every byte that counts."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": f'version = "{version}"\n',
        f"{info}/METADATA": metadata
        + "".join(f"Requires-Dist: {one}\n" for one in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{info}/RECORD,,\n"
    for inner, text in files.items():
        digest = base64.urlsafe_b64encode(
            hashlib.sha256(text.encode()).digest()
        ).rstrip(b"=")
        record += f"{inner},sha256={digest.decode()},{len(text)}\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(inner, text)
    return path


def pin(*wheels: Path) -> str:
    """Return a lock entry with the hashes of all these wheels, pinned without a local version."""
    name, version = wheels[0].name.split("-")[:2]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels]
    lines = " \\\n".join(f"    --hash=sha256:{one}" for one in hashes)
    return f"{name.replace('_', '-')}=={version.partition('+')[0]} \\\n{lines}\n"


@dataclass(frozen=True)
class Newcomer:
    """A checkout with small lock files, and an index that serves what they name."""

    checkout: Path
    index: str
    cpu_wheels: Path

    def set_up(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the set-up with no settings of pip but these."""
        return captured(self.command, self.environment(variables))

    @property
    def command(self) -> list[str]:
        """The set-up, as `make setup` calls it."""
        return [
            sys.executable,
            str(self.checkout / "docker" / "environment.py"),
            str(self.folder),
        ]

    @property
    def folder(self) -> Path:
        """The environment."""
        return self.checkout / ".venv"

    def environment(self, variables: dict[str, str]) -> dict[str, str]:
        """Return the variables of this machine without proxies, with pip's own replaced."""
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("PIP_") and not key.lower().endswith("_proxy")
        }
        kept |= {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_RETRIES": "1",
            "PIP_NO_CACHE_DIR": "1",
        }
        return {**kept, "PIP_INDEX_URL": self.index, **variables}

    def installed(self) -> dict[str, str]:
        """Return package → version of the environment, pip and setuptools left out."""
        program = (
            "import importlib.metadata as m\n"
            "for one in m.distributions(): print(one.name, one.version)"
        )
        done = captured([str(self.folder / "bin/python"), "-c", program])
        found = dict(line.split() for line in done.stdout.splitlines())
        return {
            name: found[name] for name in sorted(found.keys() - {"pip", "setuptools"})
        }


def captured(
    command: list[str], environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it prints."""
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="session")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment without packages: making one takes seconds, copying it does not."""
    folder = tmp_path_factory.mktemp("empty") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder


@pytest.fixture
def begun(newcomer: Newcomer, empty_environment: Path) -> Newcomer:
    """A newcomer whose set-up was interrupted before the first package."""
    shutil.copytree(empty_environment, newcomer.folder, symlinks=True)
    return newcomer


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    """Serve torch, a library of NVIDIA's and two other packages."""
    simple, checkout = tmp_path / "index" / "simple", tmp_path / "checkout"
    torch = wheel(simple / "torch", "torch", "2.13.0", NVIDIA)
    cpu_torch = wheel(tmp_path / "cpu-wheels", "torch", "2.13.0+cpu")
    nvidia = wheel(simple / "nvidia-thing", "nvidia_thing", "1.0")
    others = [wheel(simple / name, name, "1.0") for name in ("alpha", "beta")]
    requirements = checkout / "docker" / "requirements"
    requirements.mkdir(parents=True)
    # The room for these packages, so that what the machine happens to have free decides nothing.
    source = SCRIPT.read_text().replace(
        ROOM, '{"environment": 0.1, "temporary files": 0}'
    )
    (checkout / "docker" / "environment.py").write_text(source)
    (requirements / "bootstrap.lock").write_text(pin(torch, cpu_torch))
    (requirements / "nvidia.lock").write_text(pin(nvidia))
    (requirements / "dev.lock").write_text(
        "".join(map(pin, others)) + pin(torch, cpu_torch)
    )
    (requirements / "models.lock").write_text("# none\n")
    handler = partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "index")
    )
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index = f"http://127.0.0.1:{server.server_port}/simple"
        yield Newcomer(checkout, index, tmp_path / "cpu-wheels")
        server.shutdown()


def test_the_public_index_alone_is_enough_and_its_torch_brings_the_libraries_it_needs(
    newcomer: Newcomer,
) -> None:
    done = newcomer.set_up()
    assert done.returncode == 0, done.stderr
    expected = {"alpha": "1.0", "beta": "1.0", "nvidia-thing": "1.0", "torch": "2.13.0"}
    assert {
        name.replace("_", "-"): v for name, v in newcomer.installed().items()
    } == expected
    assert "torch 2.13.0 asks for NVIDIA's libraries" in done.stdout
    again = newcomer.set_up(PIP_INDEX_URL="http://127.0.0.1:9/nobody")
    assert (again.returncode, again.stdout) == (0, ""), (
        "finished work is not done again"
    )


def test_a_cpu_wheel_is_taken_where_pip_finds_one_and_nothing_for_gpus_comes_with_it(
    begun: Newcomer,
) -> None:
    done = begun.set_up(PIP_FIND_LINKS=str(begun.cpu_wheels))
    assert done.returncode == 0, done.stderr
    assert begun.installed() == {"alpha": "1.0", "beta": "1.0", "torch": "2.13.0+cpu"}
    assert "torch 2.13.0+cpu needs no NVIDIA libraries" in done.stdout


def test_an_interrupted_set_up_goes_on_and_mends_what_lacks_files(
    begun: Newcomer,
) -> None:
    index = Path(begun.checkout.parent / "index" / "simple")
    beta = next((index / "beta").iterdir())
    hidden = beta.rename(beta.with_suffix(".away"))
    broken = begun.set_up()
    assert broken.returncode == 2
    assert broken.stderr.count("\n") == 1
    assert "beta==1.0 was not found" in broken.stderr
    assert begun.index in broken.stderr
    assert not list(begun.folder.glob("installed-*"))
    hidden.rename(beta)
    (module,) = begun.folder.rglob("site-packages/torch.py")
    module.unlink()
    done = begun.set_up()
    assert done.returncode == 0, done.stderr
    assert "torch-2.13.0.dist-info is incomplete and is installed anew" in done.stdout
    assert module.exists()


def test_another_file_than_the_locked_one_is_refused(begun: Newcomer) -> None:
    (path,) = (begun.checkout.parent / "index" / "simple" / "alpha").iterdir()
    path.unlink()
    wheel(path.parent, "alpha", "1.0", "something-else")
    done = begun.set_up()
    assert done.returncode == 2
    assert "is not the one that the lock names, by its SHA-256" in done.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"PIP_INDEX_URL": "http://127.0.0.1:9/simple"},
            "the package index could not be reached",
        ),
        (
            {"HTTP_PROXY": "http://user:hidden@127.0.0.1:9", "NO_PROXY": ""},
            "the proxy refused the connection",
        ),
        (
            {"TMPDIR": "/nowhere"},
            "the folder of temporary files, /nowhere, does not exist",
        ),
    ],
    ids=["no-network", "proxy", "no-tmpdir"],
)
def test_what_keeps_it_from_the_index_is_said_in_one_line(
    begun: Newcomer, variables: dict[str, str], words: str
) -> None:
    done = begun.set_up(**variables)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr
    assert "hidden" not in done.stderr


def test_a_full_disk_is_named_and_the_same_command_goes_on_once_there_is_room(
    begun: Newcomer,
) -> None:
    """A file system of 1 MiB for temporary files, in a mount namespace of its own."""
    index = begun.checkout.parent / "index" / "simple"
    (path,) = (index / "alpha").iterdir()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("alpha_data.bin", os.urandom(3_000_000))
    requirements = begun.checkout / "docker" / "requirements"
    beta, torch = next((index / "beta").iterdir()), next((index / "torch").iterdir())
    (requirements / "dev.lock").write_text(pin(path) + pin(beta) + pin(torch))
    small = begun.checkout.parent / "small"
    first = begun.set_up()
    assert first.returncode == 0, first.stderr
    for stamp in begun.folder.glob("installed-*"):
        stamp.unlink()
    program = [
        str(begun.folder / "bin/python"),
        "-m",
        "pip",
        "uninstall",
        "-q",
        "-y",
        "alpha",
    ]
    subprocess.run(program, check=True)
    done = captured(
        with_small(small, "size=1m", list(begun.command)),
        begun.environment({"TMPDIR": str(small)}),
    )
    assert done.returncode == 2, done.stdout
    assert "the disk is full" in done.stderr
    assert begun.set_up().returncode == 0


def test_another_python_is_told_which_ones_will_do_and_how_to_get_one() -> None:
    script = runpy.run_path(str(SCRIPT))
    for version in ((3, 11), (3, 12), (3, 13)):
        script["check_python"](version, "/usr/bin/python3")
    for version in ((3, 10), (3, 14)):
        with pytest.raises(script["SetupError"]) as caught:
            script["check_python"](version, "/usr/bin/python3")
        for words in ("3.11, 3.12, 3.13", "apt-get install", "make PYTHON="):
            assert words in str(caught.value)


def test_too_little_room_is_said_before_anything_is_downloaded(
    newcomer: Newcomer,
) -> None:
    source = SCRIPT.read_text().replace(ROOM, ROOM.replace("8", "8_000_000"))
    (newcomer.checkout / "docker" / "environment.py").write_text(source)
    done = newcomer.set_up()
    assert done.returncode == 2
    assert "GB free, the environment may need 8000000 GB" in done.stderr
    assert not newcomer.folder.exists()


def test_the_readme_names_the_packages_that_a_bare_debian_was_tried_with() -> None:
    readme = (SCRIPT.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"`apt-get install {from_nothing.PACKAGES}`" in readme
