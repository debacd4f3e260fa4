"""Filters of system calls for the process that installs them; no privileges are needed.

A filter is a list of what is allowed. Everything else fails with "operation not permitted": there
is no network, no new process, no signal to another process, no file to write, and in the strict
filter no file to open. Filters add up and can never be removed (seccomp(2)).
"""

# libseccomp and its bindings would do the same; they are a C library that no image has, for the 100
# lines below.

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from typing import NamedTuple

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
# Instructions of classic BPF (linux/bpf_common.h): load a word, compare, test bits, return.
_LOAD = 0x20
_EQUAL = 0x15
_ANY_BIT = 0x45
_RETURN = 0x06
# Offsets in struct seccomp_data.
_NUMBER = 0
_ARCHITECTURE = 4
_ARGUMENTS = 16

_CLONE_THREAD = 0x00010000
_AF_UNIX = 1
_WRITE_FLAGS = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND."""
# TCGETS, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Not FIOASYNC: see _FCNTL_COMMANDS.
_IOCTL_REQUESTS = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. With F_SETOWN and F_SETSIG the kernel
# would send a signal of one's choice to a process of one's choice.
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)


class _Machine(NamedTuple):
    audit: int
    """AUDIT_ARCH_… of linux/audit.h."""
    numbers: dict[str, int]
    """System call → its number."""


def _table(text: str) -> dict[str, int]:
    pairs = (entry.split("=") for entry in text.split())
    return {name: int(number) for name, number in pairs}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MACHINES = {
    "x86_64": _Machine(
        0xC000003E,
        _table(
            "read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 "
            "mprotect=10 munmap=11 brk=12 rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 "
            "ioctl=16 pread64=17 readv=19 writev=20 access=21 pipe=22 select=23 sched_yield=24 "
            "mremap=25 madvise=28 dup=32 dup2=33 pause=34 nanosleep=35 getitimer=36 alarm=37 "
            "setitimer=38 getpid=39 sendto=44 recvfrom=45 shutdown=48 socketpair=53 clone=56 "
            "exit=60 uname=63 fcntl=72 getdents=78 getcwd=79 readlink=89 gettimeofday=96 "
            "getrlimit=97 getrusage=98 sysinfo=99 times=100 getuid=102 getgid=104 geteuid=107 "
            "getegid=108 getppid=110 sigaltstack=131 statfs=137 fstatfs=138 prctl=157 gettid=186 futex=202 "
            "sched_getaffinity=204 getdents64=217 restart_syscall=219 fadvise64=221 "
            "clock_gettime=228 clock_getres=229 clock_nanosleep=230 exit_group=231 epoll_wait=232 "
            "epoll_ctl=233 openat=257 newfstatat=262 readlinkat=267 faccessat=269 pselect6=270 "
            "ppoll=271 set_robust_list=273 get_robust_list=274 epoll_pwait=281 eventfd2=290 "
            "epoll_create1=291 dup3=292 pipe2=293 prlimit64=302 getrandom=318 membarrier=324 "
            "statx=332 rseq=334 clone3=435 faccessat2=439"
        ),
    ),
    "aarch64": _Machine(
        0xC00000B7,
        _table(
            "getcwd=17 eventfd2=19 epoll_create1=20 epoll_ctl=21 epoll_pwait=22 dup=23 dup3=24 "
            "fcntl=25 ioctl=29 statfs=43 fstatfs=44 faccessat=48 openat=56 close=57 pipe2=59 "
            "getdents64=61 lseek=62 read=63 write=64 readv=65 writev=66 pread64=67 pselect6=72 "
            "ppoll=73 readlinkat=78 newfstatat=79 fstat=80 exit=93 exit_group=94 futex=98 "
            "set_robust_list=99 get_robust_list=100 nanosleep=101 getitimer=102 setitimer=103 "
            "clock_gettime=113 clock_getres=114 clock_nanosleep=115 sched_getaffinity=123 "
            "sched_yield=124 restart_syscall=128 sigaltstack=132 rt_sigaction=134 "
            "rt_sigprocmask=135 rt_sigreturn=139 times=153 uname=160 getrlimit=163 getrusage=165 "
            "prctl=167 gettimeofday=169 getpid=172 getppid=173 getuid=174 geteuid=175 getgid=176 "
            "getegid=177 gettid=178 sysinfo=179 socketpair=199 sendto=206 recvfrom=207 "
            "shutdown=210 brk=214 munmap=215 mremap=216 clone=220 mmap=222 fadvise64=223 "
            "mprotect=226 madvise=233 prlimit64=261 getrandom=278 membarrier=283 statx=291 "
            "rseq=293 clone3=435 faccessat2=439"
        ),
    ),
}
_NOT_STRICT = _words(
    "prctl open openat stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat "
    "getdents getdents64 getcwd pread64 fadvise64 statfs fstatfs"
)
"""Calls that read files by name, and the one that installs filters: not in the strict filter."""
_CONDITIONAL = _words(
    "open openat clone clone3 socketpair sendto prlimit64 prctl ioctl fcntl"
)
"""Calls that are allowed with some arguments alone."""

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant."""


def missing() -> str:
    """Return what filters need and this machine lacks; empty if nothing is known to be missing."""
    if platform.system() != "Linux":
        return f"Linux (this is {platform.system()})"
    if platform.machine() not in _MACHINES:
        known = " or ".join(_MACHINES)
        return f"a processor of the kind {known} (this is {platform.machine()})"
    return ""


def install(*, read_files: bool) -> None:
    """Confine this process, all its threads to come, for good.

    Args:
        read_files: Let it open files for reading. Without, it opens none.

    Raises:
        OSError: The kernel refuses filters.
    """
    machine = _MACHINES[platform.machine()]
    program = _program(machine, read_files=read_files)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    forbid_new_privileges()
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header)


def forbid_new_privileges() -> None:
    """Let no program that this process starts have more rights; the kernel then takes filters."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, None)


def _prctl(option: int, value: int, pointer: bytes | None) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if library.prctl(option, ctypes.c_ulong(value), pointer, zero, zero):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {errno.errorcode.get(number, number)}")


def _program(machine: _Machine, *, read_files: bool) -> list[Instruction]:
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, machine.audit),
        # Calls of a 32-bit program have other numbers.
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for name, number in machine.numbers.items():
        if name in _NOT_STRICT and not read_files:
            continue
        rule = _rule(name) if name in _CONDITIONAL else [(_RETURN, 0, 0, _ALLOW)]
        program.append((_EQUAL, 0, len(rule), number))
        program += rule
    program.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
    return program


def _rule(name: str) -> list[Instruction]:
    """Return instructions that end with a verdict on the arguments of one call."""
    match name:
        case "clone3":
            # Its flags are behind a pointer, which no filter can follow; the C library then takes
            # clone.
            return [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
        case "clone":
            return [*_word(0), (_ANY_BIT, 0, 1, _CLONE_THREAD), *_VERDICTS]
        case "open":
            return [*_word(1), (_ANY_BIT, 1, 0, _WRITE_FLAGS), *_VERDICTS]
        case "openat":
            return [*_word(2), (_ANY_BIT, 1, 0, _WRITE_FLAGS), *_VERDICTS]
        case "socketpair":
            return _one_of(0, (_AF_UNIX,))
        case "sendto":
            # Without an address: a datagram could go to any socket.
            return _null(4)
        case "prlimit64":
            # Limits can be read.
            return _null(2)
        case "prctl":
            return _one_of(0, (_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP))
        case "ioctl":
            return _one_of(1, _IOCTL_REQUESTS)
    return _one_of(1, _FCNTL_COMMANDS)


_VERDICTS: list[Instruction] = [
    (_RETURN, 0, 0, _ALLOW),
    (_RETURN, 0, 0, _ERRNO | errno.EPERM),
]


def _word(argument: int, *, high: bool = False) -> list[Instruction]:
    # Both machines are little-endian: the low word of 64 bits comes first.
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument + 4 * high)]


def _one_of(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    # Behind the comparison that fits come those that are left, then the verdicts.
    comparisons = [
        (_EQUAL, len(values) - 1 - position, int(position == len(values) - 1), value)
        for position, value in enumerate(values)
    ]
    return [*_word(argument), *comparisons, *_VERDICTS]


def _null(argument: int) -> list[Instruction]:
    low = (_EQUAL, 0, 3, 0)
    high = (_EQUAL, 0, 1, 0)
    return [*_word(argument), low, *_word(argument, high=True), high, *_VERDICTS]
