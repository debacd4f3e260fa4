"""Set up `.venv`: every package at its locked version, checked by hash; `make setup` calls it.

    python3.11 docker/environment.py [FOLDER]

Standard library only, because nothing is installed yet. The set-up has three parts, each one call
of pip on one or two lock files of docker/requirements:

1. pip itself, build tools, and torch (bootstrap.lock). Where pip finds torch's CPU wheel
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
        r"No matching distribution found for (?P<package>\S+)",
        "{package} was not found; the lock needs exactly this version for this platform and Python",
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
    if version in PYTHONS:
        return
    supported = ", ".join(f"{major}.{minor}" for major, minor in PYTHONS)
    actual = ".".join(str(number) for number in version)
    raise SetupError(
        f"Python {supported} is needed, {path} is {actual}. Install one (Debian"
        " 12: apt-get install python3.11 python3.11-venv python3.11-dev; Ubuntu 24.04:"
        " python3.12 python3.12-venv python3.12-dev; macOS: brew install python@3.12), then"
        " make PYTHON=/path/to/python3.11"
    )


def check_tools(folder: Path) -> None:
    """Raise SetupError before anything is downloaded if a later part is bound to fail."""
    check_venv_module()
    check_compiler()
    temporary = Path(os.environ.get("TMPDIR") or "/tmp")
    check_room(folder, "environment", folder.parent)
    check_room(folder, "temporary files", temporary)


def check_venv_module() -> None:
    """Raise SetupError if this Python cannot make an environment."""
    # Debian ships venv and ensurepip as packages of their own.
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(
            "this Python has no venv module; install it (Debian: apt-get install python3-venv)"
        ) from None


def check_compiler() -> None:
    """Raise SetupError without a C compiler or Python's headers."""
    # One package (pycosat, of reasoning-gym) comes as C source alone.
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    has_compiler = shutil.which(compiler) or shutil.which("cc")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not has_compiler or not headers.exists():
        raise SetupError(
            f"a C compiler ({compiler}) and Python's headers ({headers}) are needed; install them"
            " (Debian: apt-get install gcc libc6-dev python3-dev)"
        )


def check_room(folder: Path, purpose: str, path: Path) -> None:
    """Raise SetupError if there is too little free space for a new environment.

    Args:
        folder: the environment.
        purpose: key of ROOM_GB.
        path: the folder whose file system is looked at.
    """
    if not path.is_dir():
        raise SetupError(f"the folder of {purpose}, {path}, does not exist")
    free = shutil.disk_usage(path).free / 1e9
    # A set-up that was begun before holds some of what it needs, nobody knows how much.
    was_begun = (folder / "install.log").exists()
    if free < ROOM_GB[purpose] and not was_begun:
        raise SetupError(
            f"{path} has {free:.1f} GB free, the {purpose} may need {ROOM_GB[purpose]} GB; free"
            " space, or use another folder (TMPDIR for temporary files)"
        )


def set_up(folder: Path) -> None:
    """Create or complete the environment in `folder`. Raises SetupError."""
    check_tools(folder)
    begin_seconds = time.monotonic()
    create(folder)
    # Removed before the first change: an interrupted set-up must not pass for a finished one.
    for old_stamp in folder.glob("installed-*"):
        old_stamp.unlink()
    print(
        f"installing into {folder} (once; the log is {folder}/install.log)", flush=True
    )
    torch = install_all(folder)
    stamp(folder).touch()
    files = [path for path in folder.rglob("*") if not path.is_symlink()]
    size_gb = sum(path.lstat().st_size for path in files) / 1e9
    seconds = time.monotonic() - begin_seconds
    print(f"set up in {seconds:.0f} s: {size_gb:.1f} GB, torch {torch}", flush=True)


def create(folder: Path) -> None:
    """Make an empty environment unless there is one that works. Raises SetupError."""
    if folder.exists() and not works(folder):
        print(f"{folder} is of another Python, or broken: it is made anew", flush=True)
        shutil.rmtree(folder)
    if folder.exists():
        return
    result = run([sys.executable, "-m", "venv", str(folder)])
    if result.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise SetupError(
            f"the environment could not be made: {last_lines(result.stdout, 1)}"
        )


def install_all(folder: Path) -> str:
    """Install all packages and return the version of torch. Raises SetupError."""
    pip = Pip(folder)
    pip.remove_incomplete()
    pip.install("pip, build tools and torch", "bootstrap.lock")
    torch, needs_nvidia = torch_build(folder)
    if needs_nvidia:
        print(
            f"  torch {torch} asks for NVIDIA's libraries; they are used where there is a GPU"
        )
        pip.install("NVIDIA's libraries", "nvidia.lock")
    else:
        print(f"  torch {torch} needs no NVIDIA libraries")
    pip.install("everything else", "dev.lock", "models.lock")
    return torch


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command with the variables that a build needs, and return its status and output."""
    return subprocess.run(command, env=environment(), capture_output=True, text=True)


def environment() -> dict[str, str]:
    """Return the variables of pip: the user's own, and those of the build."""
    # DeepSpeed compiles its operators on first use; here there may be no nvcc.
    return {**os.environ, "DS_BUILD_OPS": "0", "PYTHONWARNINGS": "ignore"}


def works(folder: Path) -> bool:
    """Return True if the folder holds an environment of this Python that starts."""
    program = "import sys, pip; print(*sys.version_info[:2])"
    # The links of an environment lead nowhere once its Python was removed or its folder moved.
    command = [str(folder / "bin" / "python"), "-c", program]
    try:
        result = run(command)
    except OSError:
        return False
    return result.stdout.split() == [str(number) for number in sys.version_info[:2]]


def stamp(folder: Path) -> Path:
    """Return the path of the file whose presence shows that these very locks are installed."""
    digest = hashlib.sha256()
    for name in LOCKS:
        digest.update((REQUIREMENTS / name).read_bytes())
    return folder / f"installed-{digest.hexdigest()[:16]}"


def torch_build(folder: Path) -> tuple[str, bool]:
    """Return (version of the installed torch, True if it asks for NVIDIA's libraries)."""
    # By its metadata, not by its version: torch's wheels for macOS ask for none either.
    program = (
        "import importlib.metadata as m, re\n"
        "from pip._vendor.packaging.requirements import Requirement\n"
        "needed = [Requirement(text) for text in m.requires('torch') or ()]\n"
        "print(m.version('torch'), any(\n"
        "    re.match('nvidia-|cuda-|triton', item.name)\n"
        "    and (item.marker is None or item.marker.evaluate({'extra': ''})) for item in needed))"
    )
    command = [str(folder / "bin" / "python"), "-c", program]
    result = run(command)
    if result.returncode:
        raise SetupError(f"torch was not installed: {last_lines(result.stderr, 1)}")
    version, needs_nvidia = result.stdout.split()
    return version, needs_nvidia == "True"


class Pip:
    """pip of the environment, with its output kept in install.log and its progress in few lines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = [str(folder / "bin" / "python"), "-m", "pip", "--no-input"]
        self.command.append("--disable-pip-version-check")

    def install(self, title: str, *locks: str) -> None:
        """Install exactly what the locks name. Raises SetupError."""
        command = [*self.command, "install", "--require-hashes"]
        # The locks are complete, and nothing may pull in another torch.
        command.append("--no-deps")
        # DeepSpeed is built from source and looks for torch meanwhile.
        command.append("--no-build-isolation")
        num_packages = 0
        for name in locks:
            command += ["-r", str(REQUIREMENTS / name)]
            num_packages += len(pins(REQUIREMENTS / name))
        progress = Progress(title, num_packages)
        output: list[str] = []
        # Appended: what an interrupted set-up printed stays in the log.
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
        """Return one line for a failed call: the cause, the indexes that were asked, the cure."""
        for pattern, meaning in FAILURES:
            match = re.search(pattern, output)
            if match:
                package = match.groupdict().get("package") or "a package"
                text = meaning.replace("{package}", package)
                return f"{text} (looked {self.indexes()}; details: {self.folder}/install.log)"
        return (
            f"pip failed: {last_lines(output, 3)} (details: {self.folder}/install.log)"
        )

    def indexes(self) -> str:
        """Return the indexes and folders that pip searches, without user names and passwords."""
        config = run([*self.command, "config", "list"]).stdout
        settings = re.findall(
            r"^.*\.(index-url|extra-index-url|find-links)=(.*)$", config, re.M
        )
        searched = [f"{name} {value.strip()}" for name, value in settings]
        # index-url replaces the public index; the other settings come on top of it.
        if not any(name == "index-url" for name, _ in settings):
            searched.insert(0, "on the public package index")
        return re.sub(r"://[^/@\s]+@", "://***@", "; ".join(searched))

    def remove_incomplete(self) -> None:
        """Remove packages of an interrupted set-up that lack files, so that pip installs them."""
        # By RECORD itself: from Python 3.12 on `dist.files` leaves out what is missing.
        program = (
            "import csv, importlib.metadata as m, shutil\n"
            "for dist in m.distributions():\n"
            "    record = dist.read_text('RECORD')\n"
            "    names = [row[0] for row in csv.reader((record or '').splitlines())]\n"
            "    if not names or not all(dist.locate_file(name).exists() for name in names):\n"
            "        print(dist._path)\n"
            "        shutil.rmtree(dist._path)"
        )
        # pip takes a package whose .dist-info is there for installed, whatever files it lacks.
        python = str(self.folder / "bin" / "python")
        result = run([python, "-c", program])
        for path in result.stdout.split("\n"):
            if path:
                print(
                    f"  {Path(path).name} is incomplete and is installed anew",
                    flush=True,
                )


class Progress:
    """One moving line on a terminal; elsewhere one line for each large download and phase."""

    def __init__(self, title: str, num_packages: int) -> None:
        self.num_packages = num_packages
        self.num_handled = 0
        self.downloaded_mb = 0.0
        self.is_terminal = sys.stdout.isatty()
        self.begin_seconds = time.monotonic()
        self.print(f"  {title}: {num_packages} packages")

    def show(self, line: str) -> None:
        """Take one line of pip's output."""
        line = line.strip()
        package = re.match(
            r"(?:Collecting|Requirement already satisfied:|Ignoring) (\S+)", line
        )
        download = re.match(r"Downloading (\S+?)-\S+ \(([\d.]+) (kB|MB|GB)\)", line)
        if package:
            self.num_handled += 1
            self.move(package[1])
        elif download:
            name, number, unit = download.groups()
            size_mb = float(number) * {"kB": 0.001, "MB": 1, "GB": 1000}[unit]
            self.downloaded_mb += size_mb
            if size_mb >= REPORTED_MB:
                self.print(f"    downloading {name}, {size_mb:.0f} MB")
        elif line.startswith("Building wheel for ") and line.endswith("started"):
            self.move(line.removesuffix(": started"))
        elif line.startswith("Installing collected packages"):
            self.print(f"    unpacking {line.count(',') + 1} packages")

    def move(self, text: str) -> None:
        """Rewrite the moving line."""
        if self.is_terminal:
            width = shutil.get_terminal_size().columns - 1
            # pip may name a package twice, once to collect it and once as satisfied.
            num_handled = min(self.num_handled, self.num_packages)
            line = f"    {num_handled}/{self.num_packages}  {self.downloaded_mb:.0f} MB  {text}"
            print(f"\r{line[:width]:<{width}}", end="", flush=True)

    def print(self, text: str) -> None:
        """Print a line that stays."""
        if self.is_terminal:
            # Clear the moving line first.
            print("\r\033[K", end="")
        print(text, flush=True)

    def end(self) -> None:
        """Print how long this part took."""
        seconds = time.monotonic() - self.begin_seconds
        self.print(f"    {self.downloaded_mb:.0f} MB downloaded, {seconds:.0f} s")


def pins(lock: Path) -> list[str]:
    """Return the names that a lock file pins."""
    return re.findall(
        r"^([A-Za-z0-9_.-]+)={2,3}", lock.read_text(encoding="utf-8"), re.M
    )


def last_lines(text: str, count: int) -> str:
    """Return the last lines of a text, joined to one."""
    lines = text.strip().splitlines()[-count:]
    return " | ".join(line.strip() for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
