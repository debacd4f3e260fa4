#!/opt/venv/bin/python
"""Take out of a layer the GPU libraries that torch does not need to be imported on a CPU.

    trim_nvidia FOLDER

The packages were installed below FOLDER. The public index's torch is linked against NVIDIA's
libraries: those that `import torch` maps into memory stay (2.1 GB of 2.7 GB, torch 2.13.0), the
others go, and so does Triton, a compiler for GPUs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAM = "import torch; print(open('/proc/self/maps').read())"


def main() -> None:
    """Trim the layer that the command line names."""
    packages = Path(sys.argv[1]) / "opt/venv/lib/python3.11/site-packages"
    for path in packages.glob("triton*"):
        shutil.rmtree(path)
    needed = mapped_libraries(packages)
    freed_bytes = 0
    for path in sorted((packages / "nvidia").rglob("*")):
        if path.is_file() and str(path.resolve()) not in needed:
            freed_bytes += path.stat().st_size
            path.unlink()
    print(f"{freed_bytes // 1_000_000} MB of NVIDIA's files taken out")


def mapped_libraries(packages: Path) -> set[str]:
    """Return the paths of the libraries that `import torch` maps into memory."""
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    command = [sys.executable, "-c", PROGRAM]
    maps = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    )
    paths: set[str] = set()
    for line in maps.stdout.splitlines():
        # The path is the last field; versioned libraries end in .so.12.
        if line.endswith(".so") or ".so." in line:
            paths.add(line.split()[-1])
    return paths


if __name__ == "__main__":
    main()
