"""The process that runs SQL which a model wrote, in a database in memory.

`python -I -S sql_worker.py SECONDS MEMORY_MB`. The line in is {tables, queries}: SQL that makes the
tables, and queries that are each asked of a database of its own. The line out has the rows of each, or
its error. SQLite opens no file here, and loads no extension.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from components.sandbox.channel import Channel
from components.sandbox.confine import Unconfined, confine, limit

MAX_ROWS = 10_000
Reply = dict[str, object]


def main() -> None:
    """Answer one line."""
    seconds, memory_mb = map(int, sys.argv[1:])
    channel = Channel()
    request = channel.receive()
    try:
        limit(cpu_seconds=seconds + 1, memory_bytes=memory_mb * 2**20)
        confine(read_files=True)
        confine(read_files=False)
    except (OSError, Unconfined) as error:
        channel.send({"unconfined": str(error)})
        os._exit(1)
    queries = request["queries"]
    assert isinstance(queries, list)
    results = [_rows_of(str(request["tables"]), str(query)) for query in queries]
    channel.send({"results": results})


def _rows_of(tables: str, query: str) -> Reply:
    """Return {rows}, or {error} where SQLite refuses."""
    database = sqlite3.connect(":memory:")
    # Large sorts would open a file.
    database.execute("PRAGMA temp_store = MEMORY")
    try:
        database.executescript(tables)
    except (sqlite3.Error, ValueError) as error:
        return {"error": f"the tables: {error}"}
    try:
        cursor = database.execute(query)
        rows = cursor.fetchmany(MAX_ROWS + 1)
    except MemoryError:
        return {"error": "out of memory"}
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        return {"error": str(error)}
    finally:
        database.close()
    if cursor.description is None:
        return {"error": "it is no query: it gives no rows"}
    if len(rows) > MAX_ROWS:
        return {"error": f"more than {MAX_ROWS} rows"}
    return {"rows": [[_plain(value) for value in row] for row in rows]}


def _plain(value: object) -> object:
    return {"bytes": value.hex()} if isinstance(value, bytes) else value


if __name__ == "__main__":
    main()
