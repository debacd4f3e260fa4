"""A disk that is full, or out of inodes, under what a run writes: one line with the folder, status 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from components.storage.folder import full_disk_errors
from tests.mounts import with_small
from tests.pipeline.campaigns import Place
from tests.security.test_local_processes import tiny_place

pytestmark = pytest.mark.process


def run_with_small(
    place: Place, folder: Path, options: str
) -> subprocess.CompletedProcess[str]:
    """Start a run with a small file system mounted on one folder, which only it sees."""
    return subprocess.run(
        with_small(folder, options, place.command("run", "--rounds", "1")),
        cwd=place.folder,
        env={**place.environment, "RATCHET_WARM": "0"},
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        (".ratchet", "size=4k"),
        (".ratchet", "size=1m,nr_inodes=5"),
        (".ratchet", "size=1m,nr_inodes=8"),
        ("store", "size=10m,nr_inodes=6"),
        ("store-cache", "size=8k"),
    ],
)
def test_a_run_that_has_no_room_says_so_in_one_line(
    tmp_path: Path, folder: str, options: str
) -> None:
    place = tiny_place(tmp_path)
    done = run_with_small(place, tmp_path / folder, options)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors)) == (2, 1), done.stderr + done.stdout
    assert str(tmp_path / folder) in errors[0]
    assert "room" in errors[0]
    assert "Traceback" not in done.stderr


def test_a_full_folder_of_progress_ends_no_step(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\n"
        "from components.runtime.log_lines import LogSubject\n"
        "from components.runtime.progress import Progress\n"
        "progress = Progress(file=Path('/dev/full'))\n"
        "progress.begin(LogSubject('demo-1', 1, 'train', 'train-r1'))\n"
        "progress.note('goes on')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], text=True, capture_output=True, check=True
    )
    assert done.stderr.count("no further progress is shown: /dev/full") == 1
    assert "goes on" in done.stderr


def test_an_error_that_is_no_full_disk_keeps_its_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), full_disk_errors(tmp_path):
        (tmp_path / "absent").read_text()
