"""The first process of a container: run a command in its own group, and pass signals on to it.

Standard library only: `python -I -S entry.py COMMAND…`.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time


def main() -> int:
    """Return the exit status of the command.

    128 + signal if a signal ended it, 127 if there is no such command.
    """
    signals: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: object) -> None:
        signals.append(number)
        for child in children:
            # The group, because launchers of workers do not all pass a signal on.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)

    # A shell that is the first process would ignore SIGTERM, since the kernel gives process 1 no
    # default action, and the step below it would never hear that it should save its work.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    try:
        child = subprocess.Popen(sys.argv[1:], start_new_session=True)
    except OSError as error:
        print(f"error: {sys.argv[1]}: {error.strerror}", file=sys.stderr)
        return 127
    children.append(child)
    if signals:
        # It came before there was a child to tell.
        pass_on(signals.pop(), None)
    status = 0
    while True:
        try:
            # Any process: orphans come to the first one, and would stay as zombies.
            pid, wait_status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            # Not one long wait: a signal that arrives just before it would be passed on after it.
            time.sleep(0.02)
        elif pid == child.pid:
            exit_code = os.waitstatus_to_exitcode(wait_status)
            status = 128 - exit_code if exit_code < 0 else exit_code
            if not signals:
                return status
            # A shell ends at once; what it started may still be saving its work.


if __name__ == "__main__":
    sys.exit(main())
