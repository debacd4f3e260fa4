"""What kfp.local starts as `python3`: hand the task to the warm process and wait. Standard library
only, so that it starts in a hundredth of a second: `python -I -S warm_client.py ADDRESS PYTHON
ARGUMENTS…`."""

import array
import json
import os
import signal
import socket
import sys


def main() -> int:
    """Exit status of the task; 70 if the warm process vanished."""
    address, python, *arguments = sys.argv[1:]
    if arguments[:2] != ["-m", "kfp.dsl.executor_main"]:
        os.execv(python, [python, *arguments])
    with socket.socket(socket.AF_UNIX) as server:
        server.connect("\0" + address[1:] if address.startswith("@") else address)
        request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
        streams = array.array("i", [0, 1, 2])
        body = json.dumps(request).encode() + b"\n"
        sent = server.sendmsg([body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        server.sendall(body[sent:])
        with server.makefile("r") as answers:
            pid = answers.readline()
            if pid:
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, lambda caught, frame: os.kill(int(pid), caught))
            status = answers.readline()
    if not status:
        print(
            "error: the warm python ended; set RATCHET_WARM=0 to start each task afresh",
            file=sys.stderr,
        )
        return 70
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
