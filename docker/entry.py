"""The first process of a container: runs the command in a process group of its own and hands
signals on to all of it.

A shell that is the first process would ignore SIGTERM, and the step below it would never hear that
it should save its work. Standard library only: `python -I -S entry.py COMMAND…`.
"""

import contextlib
import os
import signal
import subprocess
import sys


def main() -> int:
    """Exit status of the command; 128 + signal if a signal ended it, 127 if there is no such
    command."""
    asked: list[int] = []
    try:
        child = subprocess.Popen(sys.argv[1:], start_new_session=True)
    except OSError as error:
        print(f"error: {sys.argv[1]}: {error.strerror}", file=sys.stderr)
        return 127

    def pass_on(number: int, frame: object) -> None:
        asked.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    status = 0
    while True:
        try:
            pid, ended = os.wait()  # of any process: orphans come to the first one
        except ChildProcessError:
            return status
        if pid == child.pid:
            status = os.waitstatus_to_exitcode(ended)
            status = 128 - status if status < 0 else status
            if not asked:
                return status
            # A shell ends at once; what it started may still be saving its work.


if __name__ == "__main__":
    sys.exit(main())
