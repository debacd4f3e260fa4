"""Situations that people met in other projects: `python -m tests.benchmarks.cases --cases FOLDER`.
Five minutes.

FOLDER has `kit.py` and, in `open`, a script a situation, which prints a line a check: `pass …` or
`FAIL …`. RATCHET_CASES names it too. The scripts call modules of an earlier layout, so copies of them
are run, with the names of today (RENAMED). Where a script asks for what can no longer be asked, it is
asked as it is now, and the reason stands in EDITED. The right answers stay.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.figures import record

COMMAND = "python -m tests.benchmarks.cases"
ROOT = Path(__file__).resolve().parents[2]
SECONDS_PER_CASE = 600
NUM_CHECKS = 136
"""Of all scripts as they were handed in: one that ends early prints fewer."""

RENAMED = {
    "components.common.cache": "components.storage.cache",
    "components.common.context": "components.runtime.context",
    "components.common.layout": "components.storage.keys",
    "components.common.recipe": "components.contracts.recipe",
    "components.common.records": "components.contracts.rows",
    "components.common.store": "components.storage.store",
    "components.common.telemetry": "components.runtime.progress",
    "components.common.uris": "components.storage.sources",
    "components.common.verifiers": "components.verifiers",
    "components.modeling.answers": "components.modeling.inference.answers",
    "components.modeling.drawing": "components.modeling.inference.sampling",
    "components.select.candidates": "components.select.scored_samples",
    "components.select.filters.contamination import Overlap": (
        "components.contamination import Overlap"
    ),
    "components.select.filters import STAGES": "components.select.filters import PASSES as STAGES",
    "components.train.data": "components.train.process.row_batches",
    "make_candidates": "make_scored_samples",
    "data: {human:": "data: {sources:",
    "data: {{human:": "data: {{sources:",
    '"data": {"human":': '"data": {"sources":',
    'source="human"': 'source="labelled"',
    "heldout=": "dev=",
}
"""What an earlier layout called it → today's name."""


class Edit(NamedTuple):
    """One piece of a script, and what asks the same today."""

    why: str
    old: str
    new: str


EDITED = {
    "kit.py": [
        Edit(
            "for case 22: a server that refuses one parameter, and the keys that help",
            "faults=(), prompts=2):",
            "faults=(), prompts=2, fault_of=lambda payload: None, **keys):",
        ),
        Edit(
            "the same",
            "server.always, server.faults = always, list(faults)",
            "server.always, server.faults, server.fault_of = always, list(faults), fault_of",
        ),
        Edit("the same", '"max_retries": 2}', '"max_retries": 2, **keys}'),
    ],
    "09_system_prompt.py": [
        Edit(
            "prepare reads the base with the recipe's system prompt; the kit's part of it has none",
            '_, said = clean(T / "m", T / "c")',
            'clean(T / "m", T / "c"); from components.modeling.encoding import load_codec; '
            '_, said = attempt(lambda: load_codec(T / "c", "Be brief."))',
        )
    ],
    "10_conversation_roles.py": [
        Edit(
            "a conversation has turns, and no longer one prompt and one completion",
            "ids, _ = codec.row_ids(one.prompt, one.completion)",
            "ids = codec.encode(one.as_training_row())[0].ids",
        )
    ],
    "22_endpoint_parameters.py": [
        Edit(
            "endpoints of a round and of a judge have one class",
            "from components.contracts.recipe import Endpoint",
            "from components.contracts.recipe.endpoint import ChatEndpoint as Endpoint",
        ),
        Edit(
            "there was no key, so the check could not but fail",
            '_, error, seen = endpoint(always=refusal(400, "unsupported_parameter", said));',
            'keys = {"max_tokens": {"max_tokens_parameter": "max_completion_tokens"}, '
            '"temperature": {"parameters": {"temperature": None}}}[name]; '
            'refused = refusal(400, "unsupported_parameter", said); got, error, seen = endpoint('
            "fault_of=lambda payload: refused if name in payload else None, **keys);",
        ),
        Edit(
            "the same",
            "(there are {', '.join(Endpoint.model_fields)})\", False)",
            "(there are {', '.join(Endpoint.model_fields)})\", bool(got))",
        ),
    ],
    "33_placeholders_in_recipe.py": [
        Edit(
            "files that are not there leave no run behind whose recipe could be read",
            "T = scratch(); recipe",
            'T = scratch(); tok = tokenizer(); save(T / "m", llama(tok), tok); '
            '(T / "d.jsonl").write_text("".join(json.dumps({"prompt": f"{i}+1=", '
            '"completion": str(i + 1)}) + "\\n" for i in range(300))); recipe',
        ),
        Edit("the same", '"file:///nowhere/m"', 'f"file://{T}/m"'),
        Edit("the same", '"file:///nowhere/d.jsonl"', 'f"file://{T}/d.jsonl"'),
        Edit(
            "the run goes on now, and should be short",
            '"max_rounds": 1}}',
            '"max_rounds": 1}, "train": {"first": {"steps": 1}, "rounds": {"steps": 1}, '
            '"batch_size": 4}}',
        ),
    ],
    "34_table_read_as_prose.py": [
        Edit(
            "the script's right answer is an error or a table, and its check took the error alone",
            "is_user_error(error))",
            'is_user_error(error) or [(x.prompt, x.completion) for x in got][0] == ("2+2=", "4"))',
        )
    ],
    "37_verdict_of_an_earlier_run.py": [
        Edit(
            "a round that cannot accept 16 samples, the least by default, is refused before it runs",
            "train: {{first:",
            "select: {{min_accepted: 1}}\\ntrain: {{first:",
        )
    ],
    "38_precision_of_the_result.py": [
        Edit(
            "the right answer is of what is published; a candidate is trained on, in float32",
            "size = lambda folder:",
            "from components.publish.files import copy_checkpoint; "
            '(T / "published").mkdir(); '
            'copy_checkpoint(done_["folder"], T / "published", "bfloat16", ""); '
            'done_ = {"folder": T / "published"}; size = lambda folder:',
        )
    ],
}
"""Script → edits of it."""


def main() -> None:
    """Run all scripts, print what failed, and record how many checks pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, default=os.environ.get("RATCHET_CASES"))
    parser.add_argument(
        "--seed", type=int, default=0, help="without effect: nothing here is drawn"
    )
    parser.add_argument(
        "--only", default="", help="run the scripts whose names begin so"
    )
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    options = parser.parse_args()
    if options.cases is None or not (options.cases / "kit.py").exists():
        sys.exit(
            "no cases: give --cases FOLDER (or RATCHET_CASES) with kit.py and open/"
        )
    with tempfile.TemporaryDirectory() as folder:
        scripts = adapted(options.cases, Path(folder))
        chosen = [script for script in scripts if script.name.startswith(options.only)]
        # Each takes one core, and most of its time starts a Python with torch.
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            results = list(pool.map(checks_of, chosen))
    lines = [line for result in results for line in result]
    passed = sum(line.startswith("pass ") for line in lines)
    print(f"cases.open_passed = {passed} of {NUM_CHECKS}")
    if not options.dry and not options.only:
        record(
            "cases.open_passed",
            passed,
            f"of {NUM_CHECKS}",
            f"≥ {NUM_CHECKS}",
            COMMAND,
            options.seed,
        )
    sys.exit(len(lines) != passed)


def adapted(cases: Path, folder: Path) -> list[Path]:
    """Write the scripts with today's names, and return their copies.

    Raises ValueError if an edit no longer finds its place: a check would pass for another reason.
    """
    (folder / "open").mkdir()
    shutil.copy(cases / "kit.py", folder)
    scripts = [
        Path(shutil.copy(script, folder / "open"))
        for script in sorted((cases / "open").glob("*.py"))
    ]
    for script in (folder / "kit.py", *scripts):
        text = script.read_text(encoding="utf-8")
        # The longest first: one name may begin as another does.
        for old in sorted(RENAMED, key=len, reverse=True):
            text = text.replace(old, RENAMED[old])
        for edit in EDITED.get(script.name, ()):
            if edit.old not in text:
                raise ValueError(
                    f"{script.name}: no {edit.old!r}, so there is nothing to edit"
                )
            text = text.replace(edit.old, edit.new)
        script.write_text(text, encoding="utf-8")
    return scripts


def checks_of(script: Path) -> list[str]:
    """Run a script, print what failed, and return a line for each of its checks."""
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=ROOT,
        env={**os.environ, "RATCHET_TREE": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_PER_CASE,
    )
    lines = [
        line for line in done.stdout.splitlines() if line.startswith(("pass ", "FAIL "))
    ]
    failed = [line for line in lines if line.startswith("FAIL ")]
    print(
        f"{script.stem}: {len(lines) - len(failed)} pass, {len(failed)} fail",
        flush=True,
    )
    for line in failed:
        print(f"  {line}")
    if done.returncode and not failed:
        # It ended before its last check: that counts as one.
        lines.append("FAIL it ended early")
        print(f"  {done.stderr[-500:]}")
    return lines


if __name__ == "__main__":
    main()
