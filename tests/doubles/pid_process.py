"""A bounded process that answers every line with its process id; run as a module."""

import os
import sys

from components.bounded_process import READY

if __name__ == "__main__":
    print(READY, end="", flush=True)
    for _ in sys.stdin:
        print(os.getpid(), flush=True)
