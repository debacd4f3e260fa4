"""R8: memory is bounded by settings, not by data.

Each case is read in a process of its own, which prints what it made of the file and the most memory
that it ever had: `python -m tests.promises.memory CASE FOLDER SIZE`.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.contracts.recipe import DataSource
from components.contracts.rows import Dropped, Prompt, Sample, prompt_id
from components.errors import UserError
from components.prepare.readers import read_source
from tests.promises.counting import Case

ROOT = Path(__file__).resolve().parents[2]
MAX_RSS_MB = 400
ROW = b'{"prompt": "2+2", "completion": "4"}\n'
PIECE = b"a" * (1 << 20)
Write = Callable[[Path, int], None]


@dataclass(frozen=True)
class Bomb:
    """A small file that stands for a large one."""

    name: str
    write: Write
    """Writes the file; the number is of MiB that it unpacks to."""
    outcome: str
    """What becomes of its rows."""


def _line(path: Path, mebibytes: int) -> None:
    _fill(path, ROW + b'{"prompt": "', mebibytes, b'"}\n' + ROW)


def _cell(path: Path, mebibytes: int) -> None:
    _fill(path, b"prompt,completion\n2+2,4\n", mebibytes, b"\n3+3,6\n")


def _quoted_cell(path: Path, mebibytes: int) -> None:
    _fill(path, b'prompt,completion\n2+2,4\n3+3,"', mebibytes, b'"\n3+3,6\n')


def _array(path: Path, mebibytes: int) -> None:
    _fill(path, b'[{"prompt": "', mebibytes, b'"}]')


def _paragraph(path: Path, mebibytes: int) -> None:
    _fill(path, b"one\n\n", mebibytes, b"\n\ntwo\n")


def _fill(path: Path, head: bytes, mebibytes: int, tail: bytes) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(mebibytes):
            file.write(PIECE)
        file.write(tail)


def _repeated_text(path: Path, mebibytes: int) -> None:
    texts = _dictionary(rows=mebibytes // 8, text_bytes=8 << 20)
    _write_parquet(path, {"prompt": texts, "completion": texts})


def _text_within_lists(path: Path, mebibytes: int) -> None:
    import pyarrow

    num_rows = mebibytes // 8
    texts = _dictionary(num_rows, text_bytes=8 << 20)
    offsets = pyarrow.array(range(num_rows + 1), pyarrow.int32())
    _write_parquet(path, {"messages": pyarrow.ListArray.from_arrays(offsets, texts)})


def _one_long_list(path: Path, mebibytes: int) -> None:
    import pyarrow

    texts = _dictionary(mebibytes, text_bytes=1 << 20)
    _write_parquet(
        path, {"messages": pyarrow.ListArray.from_arrays([0, mebibytes], texts)}
    )


def _many_numbers(path: Path, mebibytes: int) -> None:
    import numpy
    import pyarrow

    # Its bytes as Parquet has them would be eight times as many.
    numbers = pyarrow.array(numpy.zeros(300_000_000, dtype=numpy.int8))
    lists = pyarrow.ListArray.from_arrays([0, len(numbers)], numbers)
    _write_parquet(path, {"messages": lists})


def _rows_below_the_limit(path: Path, mebibytes: int) -> None:
    texts = _dictionary(rows=mebibytes, text_bytes=1 << 20)
    _write_parquet(path, {"prompt": texts, "completion": texts})


def _dictionary(rows: int, text_bytes: int) -> Any:
    import pyarrow

    indices = pyarrow.array([0] * rows, pyarrow.int32())
    return pyarrow.DictionaryArray.from_arrays(
        indices, pyarrow.array(["x" * text_bytes])
    )


def _write_parquet(path: Path, columns: dict[str, Any]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, path, compression="zstd", store_schema=False)


MANY_NUMBERS = "numbers.parquet"
BOMBS = (
    Bomb("line.jsonl.gz", _line, "2 kept, 1 too_long"),
    Bomb("cell.csv.gz", _cell, "2 kept, 1 not_csv"),
    Bomb("paragraph.txt.gz", _paragraph, "2 kept, 1 too_long"),
    Bomb("array.json.gz", _array, "row 1 is no JSON"),
    Bomb("quoted.csv.gz", _quoted_cell, "2 kept, 1 not_csv"),
    Bomb("repeated.parquet", _repeated_text, "{rows/8} too_long"),
    Bomb("nested.parquet", _text_within_lists, "{rows/8} too_long"),
    Bomb("list.parquet", _one_long_list, "1 too_long"),
    Bomb(MANY_NUMBERS, _many_numbers, "300,000,000 values"),
    Bomb("below.parquet", _rows_below_the_limit, "{rows} kept"),
)
SAMPLES = "samples"
"""Case: the samples of a round, sorted."""


def cases(folder: Path, mebibytes: int) -> Iterator[Case]:
    """Yield each kind of file that unpacks to so much, and as much in samples of a round."""
    for bomb in BOMBS:
        if bomb.name == MANY_NUMBERS and mebibytes < 1024:
            # It takes a minute to write.
            continue
        yield Case(bomb.name, partial(_check_bomb, folder, bomb, mebibytes))
    yield Case(SAMPLES, partial(_check_samples, folder, mebibytes))


def _check_bomb(folder: Path, bomb: Bomb, mebibytes: int) -> str:
    outcome, rss_mb = _in_a_process(bomb.name, folder, mebibytes)
    expected = bomb.outcome.replace("{rows/8}", f"{mebibytes // 8}")
    expected = expected.replace("{rows}", f"{mebibytes}")
    if expected not in outcome:
        return f"{outcome}, not {expected}"
    return _judge(rss_mb)


def _check_samples(folder: Path, mebibytes: int) -> str:
    outcome, rss_mb = _in_a_process(SAMPLES, folder, mebibytes)
    expected = f"{mebibytes * 256} in order"
    return _judge(rss_mb) if outcome == expected else f"{outcome}, not {expected}"


def _judge(rss_mb: int) -> str:
    return "" if rss_mb < MAX_RSS_MB else f"{rss_mb} MB of memory"


def _in_a_process(name: str, folder: Path, mebibytes: int) -> tuple[str, int]:
    command = [
        sys.executable,
        "-m",
        "tests.promises.memory",
        name,
        str(folder),
        str(mebibytes),
    ]
    done = subprocess.run(
        command, cwd=ROOT, text=True, capture_output=True, check=False
    )
    if done.returncode:
        return done.stderr[-300:], 0
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["outcome"], answer["rss_mb"]


def main() -> None:
    """Write a case's file in a process of its own, read it here, and print what became of it."""
    name, folder_name, _ = sys.argv[1:]
    folder = Path(folder_name) / name
    folder.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", _WRITER, *sys.argv[1:]], cwd=ROOT, check=True)
    outcome = _sorted_samples(folder) if name == SAMPLES else _read(folder / name)
    print(json.dumps({"outcome": outcome, "rss_mb": _most_memory_mb()}))


def _most_memory_mb() -> int:
    """Return the most memory that this program had; the file was written by another."""
    # Not ru_maxrss: that counts what the process had before it became this program, which is the
    # memory of the tests that started it.
    [line] = re.findall(
        r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE
    )
    return int(line) // 1024


_WRITER = """
import sys
from tests.promises.memory import write
write(*sys.argv[1:])
"""


def write(name: str, folder: str, size: str) -> None:
    """Write the file of a case."""
    path = Path(folder) / name / name
    if name == SAMPLES:
        _write_samples(path.parent, int(size))
        return
    [bomb] = [bomb for bomb in BOMBS if bomb.name == name]
    bomb.write(path, int(size))


def _read(path: Path) -> str:
    counts = Counter[str]()
    source = DataSource(uri=path.as_uri(), split="unlabelled")
    try:
        for item in read_source(path, source):
            counts[item.reason if isinstance(item, Dropped) else "kept"] += 1
    except UserError as error:
        if "no usable row" not in str(error):
            return str(error)
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def _write_samples(folder: Path, mebibytes: int) -> None:
    text = "x" * 4000
    with (
        (folder / "prompts.jsonl").open("w") as prompts,
        (folder / "samples.jsonl").open("w") as samples,
    ):
        for number in range(mebibytes * 64):
            question = f"question {number}"
            identity = prompt_id(question)
            prompt = Prompt(
                id=identity, text=question, verifier="exact", reference={"answer": "4"}
            )
            prompts.write(prompt.model_dump_json() + "\n")
            for index in range(4):
                sample = Sample(
                    prompt_id=identity,
                    index=index,
                    seed=index,
                    text=text,
                    num_tokens=4000,
                    finished=True,
                )
                samples.write(sample.model_dump_json() + "\n")


def _sorted_samples(folder: Path) -> str:
    from pydantic import RootModel

    from components.runtime.attempts import Task
    from components.runtime.receipts import commit_once
    from components.select.sorted_samples import gather
    from components.storage.store import open_store
    from tests.conftest import context_in

    context = context_in(folder / "local", open_store((folder / "store").as_uri(), {}))

    def work(output: Path) -> RootModel[dict[str, int]]:
        for name in ("prompts.jsonl", "samples.jsonl"):
            (folder / name).rename(output / name)
        return RootModel[dict[str, int]]({})

    task = Task(run_id="run", name="generate", round=1)
    shard = commit_once(
        context, task, "generate", config={}, inputs={}, seed=0, work=work
    )
    buckets = folder / "buckets"
    buckets.mkdir()
    count = 0
    last = ("", -1)
    for block in gather(context, [shard], buckets):
        for sample in block:
            count += 1
            place = (sample.prompt.id, sample.sample.index)
            if place <= last:
                return f"{place} after {last}"
            last = place
    return f"{count} in order"


if __name__ == "__main__":
    main()
