"""Programs that try to get out of the sandbox of verifier `code`, or to pass tests they do not solve.

Each defines `attempt()`, which returns "escaped" where it has done what it should not be able to; the
tests of its row ask for that, or for a value that the program cannot know. So a program that passes
has escaped. Besides, nothing may reach the watched listeners, the watched folder, or other processes.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from components.contracts.rows import Check, Prompt
from components.verifiers import verdict_of

SECONDS = 5
EXHAUST_SECONDS = 2
_SYSCALL = (
    "import ctypes, platform\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "ON_X86 = platform.machine() == 'x86_64'\n"
    "def call(x86, arm, *arguments):\n"
    "    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]\n"
    "    return libc.syscall(ctypes.c_long(x86 if ON_X86 else arm), *values)\n"
)

REACHES = {
    # Network.
    "tcp over IPv4": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
    "tcp over IPv6": "import socket\nsocket.create_connection(('::1', {port}), 1)",
    "udp": (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.sendto(b'x', ('127.0.0.1', {port}))"
    ),
    "a listening socket": "import socket\nsocket.create_server(('127.0.0.1', 0))",
    "a unix socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('{folder}/socket')",
    "an abstract socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0{marker}')",
    "a datagram to an abstract socket from a pair": (
        "import socket\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "a.sendto(b'x', '\\0{marker}-dgram')"
    ),
    "a netlink socket": "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "a raw socket": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "a vsock": "import socket\nsocket.socket(40, socket.SOCK_STREAM)",
    "a name server": "import socket\nsocket.getaddrinfo('example.com', 80)",
    "http": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/', timeout=1)",
    # Processes.
    "fork": "import os\npid = os.fork()\nif pid == 0:\n    os._exit(0)",
    "a fork bomb": "import os\nwhile True:\n    os.fork()",
    "forkpty": "import os, pty\npty.fork()",
    "subprocess": "import subprocess\nsubprocess.run(['/bin/true'], check=True)",
    "a shell": "import os\nassert os.system('true') == 0",
    "posix_spawn": "import os\nos.posix_spawn('/bin/true', ['true'], {{}})",
    "multiprocessing": (
        "import multiprocessing\np = multiprocessing.Process(target=print)\np.start()\np.join()"
    ),
    "exec": "import os\nos.execv('/bin/sleep', ['sleep', '{marker}'])",
    "a survivor in a session of its own": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)"
    ),
    "clone by number": _SYSCALL + "assert call(56, 220, 17, 0, 0, 0, 0) >= 0",
    "clone3 by number": (
        _SYSCALL
        + "a = (ctypes.c_uint64 * 11)()\na[4] = 17\nassert call(435, 435, a, 88) >= 0"
    ),
    "fork of 32 bits": _SYSCALL + "assert ON_X86 and call(57 | 0x40000000, 0) >= 0",
    "unshare": _SYSCALL + "assert call(272, 97, 0x10000000) == 0",
    "setns": _SYSCALL + "assert call(308, 268, 0, 0) == 0",
    # Other processes.
    "killing the parent": "import os\nos.kill(os.getppid(), 9)",
    "asking whether the parent is there": "import os\nos.kill(os.getppid(), 0)",
    "killing the group of the parent": "import os\nos.killpg(os.getpgid(os.getppid()), 9)",
    "killing all": "import os\nos.kill(-1, 9)",
    "a signal by way of a pipe's owner": (
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, 10, 9)\n"
        "fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\n"
        "fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\nos.write(w, b'x')"
    ),
    "a signal by way of ioctl": (
        "import fcntl, os, struct\nr, w = os.pipe()\n"
        "fcntl.ioctl(r, 0x8901, struct.pack('i', os.getppid()))"
    ),
    "tgkill": _SYSCALL
    + "import os\nassert call(234, 131, os.getppid(), os.getppid(), 9) == 0",
    "pidfd": _SYSCALL + "import os\nassert call(434, 434, os.getppid(), 0) >= 0",
    "ptrace": _SYSCALL
    + "import os\nassert call(101, 117, 16, os.getppid(), 0, 0) == 0",
    "reading the parent's memory": (
        _SYSCALL + "import os\nb = ctypes.create_string_buffer(8)\n"
        "v = (ctypes.c_uint64 * 2)(ctypes.addressof(b), 8)\n"
        "assert call(310, 270, os.getppid(), v, 1, v, 1, 0) >= 0"
    ),
    "setting limits of the parent": (
        "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))"
    ),
    "raising its own limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))"
    ),
    "a priority": "import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    # Files.
    "reading a file": "assert open('{folder}/secret').read()",
    "reading a file by number": _SYSCALL
    + "assert call(257, 56, -100, b'{folder}/secret', 0) >= 0",
    "openat2": (
        _SYSCALL
        + "assert call(437, 437, -100, b'{folder}/secret', (ctypes.c_uint64 * 3)(), 24) >= 0"
    ),
    "the environment of the parent": (
        "import os\nassert open(f'/proc/{{os.getppid()}}/environ', 'rb').read()"
    ),
    "its own environment": "import os\nassert any('canary' in v for v in os.environ.values())",
    "the memory of the parent": "import os\nopen(f'/proc/{{os.getppid()}}/mem', 'rb')",
    "open files of the parent": "import os\nassert os.listdir(f'/proc/{{os.getppid()}}/fd')",
    "listing a folder": "import os\nassert os.listdir('{folder}')",
    "whether a file exists": "import os\nassert os.stat('{folder}/secret')",
    "inherited files": (
        "import os\nfor n in range(3, 64):\n    try:\n        os.lseek(n, 0, 0)\n"
        "    except OSError:\n        continue\n    assert os.read(n, 1)\n    break\n"
        "else:\n    raise OSError"
    ),
    "writing a file": "open('{folder}/made', 'w').write('x')",
    "writing to /tmp": "open('/tmp/{marker}', 'w').write('x')",
    "writing to /dev/shm": "open('/dev/shm/{marker}', 'w').write('x')",
    "filling the disk": (
        "with open('{folder}/made', 'wb') as f:\n    while True:\n        f.write(bytes(2**20))"
    ),
    "shared memory": (
        "from multiprocessing import shared_memory\n"
        "shared_memory.SharedMemory('{marker}', create=True, size=9)"
    ),
    "a file in memory": "import os\nos.memfd_create('x')",
    "a symbolic link": "import os\nos.symlink('{folder}/secret', '{folder}/made')",
    "a hard link": "import os\nos.link('{folder}/secret', '{folder}/made')",
    "a named pipe": "import os\nos.mkfifo('{folder}/made')",
    "deleting a file": "import os\nos.unlink('{folder}/secret')",
    "renaming a file": "import os\nos.rename('{folder}/secret', '{folder}/made')",
    "emptying a file": "import os\nos.truncate('{folder}/secret', 0)",
    "changing rights": "import os\nos.chmod('{folder}/secret', 0o777)",
    "a folder": "import os\nos.mkdir('{folder}/made')",
    "another working folder": "import os\nos.chdir('{folder}')",
    "another root": "import os\nos.chroot('{folder}')",
    "mount": _SYSCALL + "assert call(165, 40, b'x', b'{folder}', b'tmpfs', 0, 0) == 0",
    "io_uring": (_SYSCALL + "assert call(425, 425, 2, (ctypes.c_uint32 * 30)()) >= 0"),
    "bpf": _SYSCALL + "assert call(321, 280, 0, 0, 0) >= 0",
    "perf events": _SYSCALL + "assert call(298, 241, 0, 0, -1, -1, 0) >= 0",
    "keys of the kernel": _SYSCALL + "assert call(250, 219, 0, -3, 1) >= 0",
    "userfaultfd": _SYSCALL + "assert call(323, 282, 0) >= 0",
    "SysV shared memory": _SYSCALL + "assert call(29, 194, 0, 4096, 0o1600) >= 0",
    "another user": "import os\nos.setuid(65534)",
    # What it should not find.
    "our packages": "import components.verifiers",
    "installed packages": "import numpy",
    "a module that was loaded from a file later": "import xmlrpc.server as s\nopen(s.__file__)",
}
"""Name → body of an attempt that raises unless it succeeds."""

EXHAUSTS = {
    "memory": "x = []\nwhile True:\n    x.append(bytearray(2**26))",
    "one large object": "assert len([0] * 10**11)",
    "a large number": "assert 9 ** 9 ** 9",
    "threads": (
        "import threading, time\nfor _ in range(100_000):\n"
        "    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    ),
    "a loop": "while True:\n    pass",
    "sleep": "import time\ntime.sleep(600)",
    "a loop that ignores signals": (
        "import signal\nfor n in range(1, 65):\n    try:\n        signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError):\n        pass\nwhile True:\n    pass"
    ),
    "the stack": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n):\n    return f(n + 1)\nf(0)"
    ),
    "a catastrophic pattern": "import re\nre.match('(a|a)+b', 'a' * 64)",
    "an endless iterator": "import itertools\nreturn itertools.count()",
    "a flood of output": "while True:\n    print('x' * 10**6)",
    "a flood on every file": (
        "import os\nwhile True:\n    for n in range(64):\n        try:\n"
        "            os.write(n, b'x' * 10**6)\n        except OSError:\n            pass"
    ),
    "a long answer": "return 'x' * 10**8",
    "deep nesting": "x = []\nfor _ in range(10**5):\n    x = [x]\nreturn x",
}
"""Name → body of an attempt that may only end as a wrong answer, in time."""

_FORGERY = "import os\nfor n in range(3, 64):\n    try:\n        os.write(n, b'FORGED\\n' * 9)\n"
_FORGERY += "    except OSError:\n        pass\n"
FAKES = {
    "os._exit(0)": "import os\nos._exit(0)\ndef attempt(): pass",
    "os._exit(0) in a call": "import os\ndef attempt():\n    os._exit(0)",
    "sys.exit": "import sys\nsys.exit(0)\ndef attempt(): pass",
    "sys.exit in a call": "import sys\ndef attempt():\n    sys.exit(0)",
    "KeyboardInterrupt": "def attempt():\n    raise KeyboardInterrupt",
    "GeneratorExit": "def attempt():\n    raise GeneratorExit",
    "StopIteration": "def attempt():\n    raise StopIteration",
    "an exception of unittest": "import unittest\ndef attempt():\n    raise unittest.SkipTest('x')",
    "overriding ==": (
        "class Yes:\n    def __eq__(self, other): return True\n    def __ne__(self, o): return False\n"
        "    def __bool__(self): return True\n    __hash__ = None\ndef attempt():\n    return Yes()"
    ),
    "a str whose == is true": (
        "class Yes(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\n"
        "def attempt():\n    return Yes('x')"
    ),
    "an int whose == is true": (
        "class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def attempt():\n    return Yes(1)"
    ),
    "an object with __class__ of str": (
        "class Yes:\n    __class__ = str\n    def __eq__(self, other): return True\n"
        "def attempt():\n    return Yes()"
    ),
    "__reduce__": (
        "import os\nclass Bomb:\n    def __reduce__(self): return (os._exit, (0,))\n"
        "def attempt():\n    return Bomb()"
    ),
    "the mark of success, printed": (
        'def attempt():\n    print(\'{"passed": true, "reason": ""}\', flush=True)\n'
    ),
    "the mark of success on every file": (
        _FORGERY.replace("FORGED", '{"passed": true, "reason": ""}')
        + "def attempt():\n    return 1"
    ),
    "a forged reply": (
        _FORGERY.replace("FORGED", '{"value": true, "passed": true}')
        + "def attempt():\n    return 1"
    ),
    "a reply that is no value": (
        _FORGERY.replace("FORGED", '{"value": {"eval": "1"}}')
        + "def attempt():\n    return 1"
    ),
    "patching unittest": (
        "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\n"
        "unittest.TestResult.wasSuccessful = lambda self: True\ndef attempt():\n    return 1"
    ),
    "patching builtins": (
        "import builtins\nbuiltins.AssertionError = Warning\nbuiltins.all = lambda x: True\n"
        "builtins.len = lambda x: 0\ndef attempt():\n    return 1"
    ),
    "functions named as Python's": (
        "def all(x): return True\ndef isinstance(*a): return True\ndef attempt():\n    return 1"
    ),
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef attempt():\n    return 1",
    "a thread that exits": (
        "import threading, os\nthreading.Timer(0.05, os._exit, (0,)).start()\n"
        "import time\ndef attempt():\n    time.sleep(1)"
    ),
    "a handler of signals": (
        "import signal, os\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.05)\nimport time\ndef attempt():\n    time.sleep(1)"
    ),
    "expected values on the heap": (
        "import gc\ndef attempt():\n    for o in gc.get_objects():\n"
        "        if type(o) is dict:\n            for v in list(o.values()):\n"
        "                if type(v) is str and v.startswith('expected-'): return v"
    ),
    "expected values in frames": (
        "import sys\ndef attempt():\n    f = sys._getframe()\n    while f:\n"
        "        for v in [*f.f_locals.values(), *f.f_globals.values(), *f.f_code.co_consts]:\n"
        "            if type(v) is str and v.startswith('expected-'): return v\n        f = f.f_back"
    ),
    "expected values in modules": (
        "import sys\ndef attempt():\n    for m in list(sys.modules.values()):\n"
        "        for v in vars(m).values():\n"
        "            if type(v) is str and v.startswith('expected-'): return v"
    ),
    "the tests' module": "import sys\ndef attempt():\n    return sys.modules['tests'].EXPECTED",
    "standard input": "import sys, os\ndef attempt():\n    return os.read(0, 10**6).decode()",
    "the channel read ahead": (
        "import os\ndef attempt():\n    for n in range(3, 64):\n        try:\n"
        "            return os.read(n, 10**6).decode()\n        except OSError:\n            pass"
    ),
    "our own process module": (
        "import sys\nmain = sys.modules['__main__']\nmain.encode = lambda *a: True\n"
        "def attempt():\n    return 1"
    ),
    "no function at all": "x = 1",
}
"""Name → program that tries to pass a test whose expected value it cannot know."""

NUM_ATTEMPTS = len(REACHES) + len(EXHAUSTS) + len(FAKES)


@dataclass
class Watch:
    """Things outside that an attempt might reach."""

    folder: Path
    port: int
    marker: str
    connections: list[str] = field(default_factory=list)
    """Listeners that something reached."""

    def filled(self, text: str) -> str:
        """Return a program with the addresses of this watch."""
        return text.format(folder=self.folder, port=self.port, marker=self.marker)


@contextmanager
def watching(folder: Path) -> Iterator[Watch]:
    """Watch a folder with a secret in it, and sockets of four kinds."""
    (folder / "secret").write_text("a secret")
    marker = f"ratchet-escape-{secrets.token_hex(4)}"
    tcp = socket.create_server(("127.0.0.1", 0))
    watch = Watch(folder, tcp.getsockname()[1], marker)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", watch.port))
    named = socket.socket(socket.AF_UNIX)
    named.bind(str(folder / "socket"))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0{marker}")
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagrams.bind(f"\0{marker}-dgram")
    listeners = {"tcp": tcp, "unix": named, "abstract": abstract}
    for listener in listeners.values():
        listener.listen()
    try:
        yield watch
    finally:
        for name, listener in listeners.items():
            listener.setblocking(False)
            with _nothing_there():
                listener.accept()
                watch.connections.append(name)
        for name, receiver in {"udp": udp, "datagrams": datagrams}.items():
            receiver.setblocking(False)
            with _nothing_there():
                receiver.recv(1)
                watch.connections.append(name)
        for opened in (*listeners.values(), udp, datagrams):
            opened.close()


@contextmanager
def _nothing_there() -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        return


def escaped(folder: Path, *, together: bool = False, workers: int = 4) -> list[str]:
    """Try everything, and return the names of what escaped.

    Args:
        folder: An empty folder, which is watched.
        together: Make all attempts of REACHES in one process, which is quicker.
        workers: Attempts at a time.
    """
    os.environ["AWS_SECRET_ACCESS_KEY"] = "canary"
    signals: list[int] = []
    earlier = {
        number: signal.signal(number, lambda caught, _: signals.append(caught))
        for number in (signal.SIGTERM, signal.SIGIO, signal.SIGUSR1)
    }
    try:
        with watching(folder) as watch:
            before = _folder_state(folder)
            programs = _programs(watch, together=together)
            with ThreadPoolExecutor(workers) as pool:
                passed = list(pool.map(_passes, programs.values()))
    finally:
        del os.environ["AWS_SECRET_ACCESS_KEY"]
        for number, handler in earlier.items():
            signal.signal(number, handler)
    names = [
        name for name, has_passed in zip(programs, passed, strict=True) if has_passed
    ]
    names += [f"something reached the {name} socket" for name in watch.connections]
    names += [f"signal {number} came" for number in signals]
    if _folder_state(folder) != before:
        names.append("the watched folder changed")
    names += [f"{path} was made" for path in _strays(watch.marker)]
    names += [f"{command} survived" for command in _survivors(watch.marker)]
    return names


def _programs(watch: Watch, *, together: bool) -> dict[str, tuple[str, str, int]]:
    """Return name → (program, tests, seconds) of all attempts."""
    programs: dict[str, tuple[str, str, int]] = {}
    reaches = {
        name: _function("attempt", watch.filled(body)) for name, body in REACHES.items()
    }
    if together:
        programs["an attempt of all"] = (_all_of(watch), "assert attempt() != []", 60)
        reaches = {}
    for name, code in reaches.items():
        programs[name] = (code, "assert attempt() == 'escaped'", SECONDS)
    for name, body in EXHAUSTS.items():
        code = _function("attempt", body)
        programs[name] = (code, "assert attempt() == 'escaped'", EXHAUST_SECONDS)
    for name, code in FAKES.items():
        expected = f"expected-{secrets.token_hex(8)}"
        tests = f"EXPECTED = {expected!r}\nassert all(map(lambda _: attempt() == EXPECTED, [1, 2]))"
        programs[name] = (code, tests, SECONDS)
    return programs


def _function(name: str, body: str) -> str:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"def {name}():\n{lines}    return 'escaped'\n"


def _all_of(watch: Watch) -> str:
    """Return a program whose `attempt()` makes all attempts of REACHES and names what succeeded."""
    code = ""
    for number, body in enumerate(REACHES.values()):
        code += _function(f"attempt_{number}", watch.filled(body))
    return code + (
        "def attempt():\n    succeeded = []\n"
        f"    for number in range({len(REACHES)}):\n        try:\n"
        "            globals()[f'attempt_{number}']()\n"
        "            succeeded.append(number)\n"
        "        except BaseException:\n            pass\n"
        "    return succeeded\n"
    )


def _passes(program: tuple[str, str, int]) -> bool:
    code, tests, seconds = program
    prompt = Prompt(
        id="0",
        text="?",
        verifier="code",
        check=Check(seconds=seconds, memory_mb=512),
        reference={"tests": tests},
    )
    return verdict_of(prompt, code).score != 0


def _folder_state(folder: Path) -> dict[str, tuple[int, int, int]]:
    state = {}
    for path in sorted(folder.iterdir()):
        status = path.lstat()
        state[path.name] = (status.st_mode, status.st_size, status.st_nlink)
    return state


def _strays(marker: str) -> list[Path]:
    paths = [Path("/tmp") / marker, Path("/dev/shm") / marker]
    return [path for path in paths if path.exists()]


def _survivors(marker: str) -> list[str]:
    """Return the command lines of workers, and of what they might have started, that still run."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        is_ours = int(parent) in (os.getpid(), 1)
        if marker in command or (is_ours and "answer_worker.py" in command):
            found.append(command)
    return found
