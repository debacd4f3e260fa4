"""Set up `.venv`: every package at its locked version, checked by hash; `make setup` calls it.

    python3.11 docker/environment.py [FOLDER]

Standard library only, because nothing is installed yet. The set-up has three stages, each one call
of pip on one or two lock files of docker/requirements:

1. pip itself, what builds packages, and torch (bootstrap.lock). Where pip finds torch's CPU wheel
   (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL), it takes that one: its version `2.13.0+cpu` sorts above
   the index's `2.13.0`, and the lock has the hashes of both.
2. NVIDIA's libraries (nvidia.lock), only where the torch that was installed asks for them.
3. Everything else (dev.lock, models.lock).

A finished set-up leaves a stamp with the digest of the locks, and is not repeated. A set-up that
was interrupted goes on: pip keeps what it downloaded, and packages that lack files are installed
anew. What pip printed is in FOLDER/install.log. Exit status 2: one line says what is wrong and
what helps.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
LOCKS = ("bootstrap.lock", "nvidia.lock", "dev.lock", "models.lock")
PYTHONS = ((3, 11), (3, 12), (3, 13))
ROOM_GB = {"environment": 8, "temporary files": 2}
"""Free space to begin with: 6.6 GB are installed, and pip unpacks one wheel at a time."""
REPORTED_MB = 50
"""Downloads from this size on are named, one line each."""

# What pip prints → what it means. The first pattern that matches counts: pip goes on after a
# broken connection and then says that there is no such package.
FAILURES = (
    (
        r"No space left on device|Disk quota exceeded",
        "the disk is full; free space (TMPDIR names the folder of temporary files, PIP_CACHE_DIR"
        " that of downloads), then run the same command again: it goes on",
    ),
    (
        r"ProxyError|Tunnel connection failed|407 Proxy",
        "the proxy refused the connection; HTTPS_PROXY must name one that lets pip through",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "the certificate of the package index is not trusted here; PIP_CERT names a file with the"
        " certificates of your network",
    ),
    (
        r"Name or service not known|Temporary failure in name resolution|nodename nor servname"
        r"|Network is unreachable|Connection refused|NewConnectionError|ReadTimeout"
        r"|ConnectTimeout|Connection reset|Read timed out",
        "the package index could not be reached; check the network, or set PIP_INDEX_URL to an"
        " index that this machine reaches, HTTPS_PROXY to its proxy; what was downloaded is kept",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "a file is not the one that the lock names, by its SHA-256; do not work around this: the"
        " index, or a folder of PIP_FIND_LINKS, serves another file",
    ),
    (
        r"No matching distribution found for (?P<what>\S+)",
        "{what} was not found; the lock needs exactly this version for this platform and Python",
    ),
    (
        r"Python\.h: No such file|command '.*(gcc|cc|g\+\+)' failed|unable to execute '.*cc'",
        "a package could not be compiled; install a C compiler and Python's headers (Debian:"
        " apt-get install gcc python3-dev)",
    ),
)


class SetupError(Exception):
    """One line: what is wrong with this machine, and what helps."""


def main() -> int:
    """Return the exit status."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv").resolve()
    try:
        check_python(sys.version_info[:2], sys.executable)
        if stamp(folder).exists() and works(folder):
            return 0
        set_up(folder)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def check_python(version: tuple[int, ...], path: str) -> None:
    """Raise SetupError for a Python that the locks do not cover."""
    if version not in PYTHONS:
        known = ", ".join(".".join(map(str, one)) for one in PYTHONS)
        raise SetupError(
            f"Python {known} is needed, {path} is {'.'.join(map(str, version))}. Install one (Debian"
            " 12: apt-get install python3.11 python3.11-venv python3.11-dev; Ubuntu 24.04:"
            " python3.12 python3.12-venv python3.12-dev; macOS: brew install python@3.12), then"
            " make PYTHON=/path/to/python3.11"
        )


def check_tools(folder: Path) -> None:
    """Raise SetupError before anything is downloaded if a later stage is bound to fail."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(
            "this Python has no venv module; install it (Debian: apt-get install python3-venv)"
        ) from None
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    # One package (pycosat, of reasoning-gym) comes as C source alone.
    if not (shutil.which(compiler) or shutil.which("cc")) or not headers.exists():
        raise SetupError(
            f"a C compiler ({compiler}) and Python's headers ({headers}) are needed; install them"
            " (Debian: apt-get install gcc libc6-dev python3-dev)"
        )
    temporary = Path(os.environ.get("TMPDIR") or "/tmp")
    for name, path in (("environment", folder.parent), ("temporary files", temporary)):
        if not path.is_dir():
            raise SetupError(f"the folder of {name}, {path}, does not exist")
        free = shutil.disk_usage(path).free / 1e9
        if free < ROOM_GB[name] and not (folder / "install.log").exists():
            raise SetupError(
                f"{path} has {free:.1f} GB free, the {name} may need {ROOM_GB[name]} GB; free space,"
                " or use another folder (TMPDIR for temporary files)"
            )


def set_up(folder: Path) -> None:
    """Create or complete the environment in `folder`. Raises SetupError."""
    check_tools(folder)
    began = time.monotonic()
    if folder.exists() and not works(folder):
        print(f"{folder} is of another Python, or broken: it is made anew", flush=True)
        shutil.rmtree(folder)
    if not folder.exists():
        made = run([sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True)
        if made.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise SetupError(f"the environment could not be made: {last_lines(made.stdout, 1)}")
    for old in folder.glob("installed-*"):
        old.unlink()
    print(f"installing into {folder} (once; the log is {folder}/install.log)", flush=True)
    pip = Pip(folder)
    pip.remove_incomplete()
    pip.install("pip, build tools and torch", "bootstrap.lock")
    torch, needs_nvidia = torch_build(folder)
    if needs_nvidia:
        print(f"  torch {torch} asks for NVIDIA's libraries; they are used where there is a GPU")
        pip.install("NVIDIA's libraries", "nvidia.lock")
    else:
        print(f"  torch {torch} needs no NVIDIA libraries")
    pip.install("everything else", "dev.lock", "models.lock")
    stamp(folder).touch()
    size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink()) / 1e9
    print(f"set up in {time.monotonic() - began:.0f} s: {size:.1f} GB, torch {torch}", flush=True)


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` with the variables that a build needs."""
    return subprocess.run(command, env=environment(), **options)  # type: ignore[call-overload,no-any-return]


def environment() -> dict[str, str]:
    """Variables of pip: the user's own, and none of DeepSpeed's operators is compiled."""
    return {**os.environ, "DS_BUILD_OPS": "0", "PYTHONWARNINGS": "ignore"}


def works(folder: Path) -> bool:
    """Return whether the folder holds an environment of this Python that starts."""
    program = "import sys, pip; print(*sys.version_info[:2])"
    try:
        done = run([str(folder / "bin" / "python"), "-c", program], capture_output=True, text=True)
    except OSError:
        return False
    return done.stdout.split() == [str(part) for part in sys.version_info[:2]]


def stamp(folder: Path) -> Path:
    """Return the file that says that these very locks are installed."""
    digest = hashlib.sha256(b"".join((REQUIREMENTS / name).read_bytes() for name in LOCKS))
    return folder / f"installed-{digest.hexdigest()[:16]}"


def torch_build(folder: Path) -> tuple[str, bool]:
    """Return the version of the installed torch, and whether it asks for NVIDIA's libraries."""
    program = (
        "import importlib.metadata as m, re\n"
        "from pip._vendor.packaging.requirements import Requirement\n"
        "needed = [Requirement(text) for text in m.requires('torch') or ()]\n"
        "print(m.version('torch'), any(\n"
        "    re.match('nvidia-|cuda-|triton', one.name)\n"
        "    and (one.marker is None or one.marker.evaluate({'extra': ''})) for one in needed))"
    )
    done = run([str(folder / "bin" / "python"), "-c", program], capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"torch was not installed: {last_lines(done.stderr, 1)}")
    version, needs_nvidia = done.stdout.split()
    return version, needs_nvidia == "True"


class Pip:
    """pip of the environment, with its output kept in install.log and its progress in few lines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = [str(folder / "bin" / "python"), "-m", "pip", "--no-input"]
        self.command.append("--disable-pip-version-check")

    def install(self, title: str, *locks: str) -> None:
        """Install exactly what the locks name. Raises SetupError.

        `--no-deps`: the locks are complete, and nothing may pull in another torch.
        `--no-build-isolation`: DeepSpeed is built from source and looks for torch meanwhile.
        """
        command = [*self.command, "install", "--require-hashes", "--no-deps"]
        command.append("--no-build-isolation")
        for name in locks:
            command += ["-r", str(REQUIREMENTS / name)]
        total = sum(len(pins(REQUIREMENTS / name)) for name in locks)
        progress = Progress(title, total)
        output: list[str] = []
        with (
            (self.folder / "install.log").open("a", encoding="utf-8") as log,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment(),
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                output.append(line)
                progress.show(line)
        progress.end()
        if process.returncode:
            raise SetupError(self.explain("".join(output)))

    def explain(self, output: str) -> str:
        """Return one line for a failed call: what was looked for, where, and what helps."""
        for pattern, meaning in FAILURES:
            match = re.search(pattern, output)
            if match:
                what = match.groupdict().get("what") or "a package"
                text = meaning.replace("{what}", what)
                return f"{text} (looked {self.places()}; details: {self.folder}/install.log)"
        return f"pip failed: {last_lines(output, 3)} (details: {self.folder}/install.log)"

    def places(self) -> str:
        """Return where pip looks for packages, without user names and passwords."""
        listed = run([*self.command, "config", "list"], capture_output=True, text=True).stdout
        settings = re.findall(r"^.*\.(index-url|extra-index-url|find-links)=(.*)$", listed, re.M)
        shown = [f"{name} {value.strip()}" for name, value in settings]
        text = "; ".join(["on the public package index", *shown])
        if any(name == "index-url" for name, _ in settings):
            text = "; ".join(shown)
        return re.sub(r"://[^/@\s]+@", "://***@", text)

    def remove_incomplete(self) -> None:
        """Remove packages of an interrupted set-up that lack files, so that pip installs them."""
        program = (
            "import importlib.metadata as m, shutil\n"
            "for one in m.distributions():\n"
            "    if one.files is None or not all(f.locate().exists() for f in one.files):\n"
            "        print(one._path)\n"
            "        shutil.rmtree(one._path)"
        )
        python = str(self.folder / "bin" / "python")
        done = run([python, "-c", program], capture_output=True, text=True)
        for path in done.stdout.split("\n"):
            if path:
                print(f"  {Path(path).name} is incomplete and is installed anew", flush=True)


class Progress:
    """One moving line on a terminal; elsewhere one line for each large download and phase."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total = title, total
        self.seen = 0
        self.downloaded_mb = 0.0
        self.terminal = sys.stdout.isatty()
        self.began = time.monotonic()
        self.print(f"  {title}: {total} packages")

    def show(self, line: str) -> None:
        """Take one line of pip's output."""
        line = line.strip()
        if re.match(r"(Collecting|Requirement already satisfied:|Ignoring) \S+", line):
            self.seen += 1
            self.move(line.split()[1 if line.startswith(("Coll", "Ign")) else 3])
        elif match := re.match(r"Downloading (\S+?)-\S+ \(([\d.]+) (kB|MB|GB)\)", line):
            size = float(match[2]) * {"kB": 0.001, "MB": 1, "GB": 1000}[match[3]]
            self.downloaded_mb += size
            if size >= REPORTED_MB:
                self.print(f"    downloading {match[1]}, {size:.0f} MB")
        elif line.startswith("Building wheel for ") and line.endswith("started"):
            self.move(line.removesuffix(": started"))
        elif line.startswith("Installing collected packages"):
            self.print(f"    unpacking {line.count(',') + 1} packages")

    def move(self, text: str) -> None:
        """Rewrite the moving line."""
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            line = f"    {min(self.seen, self.total)}/{self.total}"
            line += f"  {self.downloaded_mb:.0f} MB  {text}"
            print(f"\r{line[:width]:<{width}}", end="", flush=True)

    def print(self, text: str) -> None:
        """Print a line that stays."""
        if self.terminal:
            print("\r\033[K", end="")
        print(text, flush=True)

    def end(self) -> None:
        """Say how long this stage took."""
        seconds = time.monotonic() - self.began
        self.print(f"    {self.downloaded_mb:.0f} MB downloaded, {seconds:.0f} s")


def pins(lock: Path) -> list[str]:
    """Return the names that a lock file pins."""
    return re.findall(r"^([A-Za-z0-9_.-]+)={2,3}", lock.read_text(encoding="utf-8"), re.M)


def last_lines(text: str, count: int) -> str:
    """Return the last lines of a text, joined to one."""
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:])


if __name__ == "__main__":
    raise SystemExit(main())
