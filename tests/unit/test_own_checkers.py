"""A checker of the user's: bundled, sent to the store, asked in a confined process."""

from __future__ import annotations

import hashlib
import io
import json
import re
import socket
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.cli.checker_code import bundle_of, send_checker_code
from components.contracts.recipe import Recipe, SelectSection
from components.contracts.recipe_file import parse_recipe
from components.contracts.rows import Check, Prompt, read_rows
from components.contracts.summaries import PrepareSummary
from components.errors import UserError
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import fetch, read_summary, receipt_uri
from components.sandbox.code_bundles import register
from components.select.scored_samples import make_scored_samples
from components.verifiers import Verdict, verdict_of, verify
from tests.unit.crafted import say
from tests.unit.preparing import RECIPE, prepare
from tests.unit.selections import select

pytestmark = pytest.mark.process

NUM_ROWS = 200
GOAL = {"goal": {"threshold": 0.9}}


def recipe_with(
    folder: Path, verifier: str = "my_checker.py:check", **source: Any
) -> Recipe:
    """A recipe beside a file of rows that are checked by the user's function."""
    rows = folder / "rows.jsonl"
    if not rows.exists():
        lines = [
            json.dumps({"prompt": f"ask {n}", "completion": f"yes {n}"})
            for n in range(NUM_ROWS)
        ]
        rows.write_text("\n".join(lines))
    section = {"uri": f"file://{rows}", "verifier": verifier, **source}
    return parse_recipe({**RECIPE, "decide": GOAL, "data": {"sources": [section]}})


def prompt_of(folder: Path, source: str, **check: Any) -> Prompt:
    """A prompt whose checker is this source."""
    (folder / "my_checker.py").write_text(source)
    bundle = bundle_of(recipe_with(folder), folder / "recipe.yaml")
    digest = hashlib.sha256(bundle).hexdigest()
    (folder / "checker.zip").write_bytes(bundle)
    register(digest, folder / "checker.zip")
    return Prompt(
        id="0123",
        text="Say yes.",
        verifier="my_checker.py:check",
        check=Check(code=digest, **{"seconds": 5, **check}),
        reference={"answer": "yes", "level": 3},
    )


def test_bools_scores_and_verdicts_count_from_the_threshold_on(tmp_path: Path) -> None:
    source = (
        "from typing import NamedTuple\n"
        "class Verdict(NamedTuple):\n    score: float\n    reason: str\n"
        "def check(prompt, answer, reference):\n"
        "    print('this goes nowhere')\n"
        "    match answer:\n"
        "        case 'bool': return prompt == 'Say yes.' and reference['level'] == 3\n"
        "        case 'half': return 0.5\n"
        "        case 'graded': return Verdict(0.7, 'two of three')\n"
        "        case 'number': return 1\n"
        "    import fractions, numpy\n"
        "    match answer:\n"
        "        case 'third': return fractions.Fraction(1, 3)\n"
        "        case 'numpy': return numpy.bool_(True)\n"
        "        case 'array': return numpy.array([0.25])\n"
        "        case 'within': return Verdict(numpy.float32(0.25), 'half \\ud800')\n"
        "    return False\n"
    )
    prompt = prompt_of(tmp_path, source)
    scores = {"third": 1 / 3, "numpy": 1.0, "array": 0.25, "within": 0.25}
    assert {text: verdict_of(prompt, text).score for text in scores} == scores
    assert verdict_of(prompt, "within").reason == "half ?", (
        "it can be written into a file"
    )
    assert [
        verify(prompt, text) for text in ("bool", "half", "graded", "number", "no")
    ] == [
        True,
        True,
        True,
        True,
        False,
    ]
    assert verdict_of(prompt, "graded") == Verdict(0.7, "two of three")
    strict = prompt.model_copy(
        update={"check": prompt.check.model_copy(update={"threshold": 0.7})}
    )
    assert [verify(strict, text) for text in ("half", "graded")] == [False, True]
    # The reason stands with the sample that it drops.
    samples = [
        say(strict, index, text) for index, text in enumerate(("half", "graded"))
    ]
    strict_samples = make_scored_samples({strict.id: strict}, samples)
    kept, dropped = select(strict_samples, SelectSection(min_accepted=1))
    assert [one.text for one in kept] == ["graded"]
    assert dropped[0].detail == "my_checker.py:check refused 'half'"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "return len(answer) / 0",
            "my_checker.py line 3: ZeroDivisionError: division by zero",
        ),
        ("raise SystemExit(0)", "my_checker.py line 3: SystemExit: 0"),
        ("return 'yes'", "it returned str, not a bool"),
        ("return None", "it returned NoneType"),
        ("return 1.5", "it returned the score 1.5"),
        ("return {'score': 1}", "it returned dict, not a bool"),
        (
            "async def late(): return True\n        return late()",
            "it is async, and nothing awaits",
        ),
        ("raise ValueError('half ' + chr(0xd800))", "line 3: ValueError: half ?"),
        (
            "open('wo' + 'rds.txt')",
            "'words.txt' (files of a checker's package travel with it",
        ),
        ("return float('nan')", "it returned the score nan"),
        ("import time; time.sleep(60)", "its time was up"),
        ("import os; os._exit(0)", "it ended with status 0"),
        ("input()", "EOFError"),
        (
            "import os, contextlib\n        for channel in range(3, 9):\n"
            "            with contextlib.suppress(OSError): os.write(channel, b'{}\\n')",
            "its process wrote to the channel of its verdicts",
        ),
        (
            "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})",
            "E: an exception without",
        ),
        ("[0] * 10**10", "MemoryError"),
        (
            "import socket; socket.create_connection(('127.0.0.1', PORT))",
            "PermissionError",
        ),
        ("open('/tmp/checker-was-here', 'w')", "PermissionError"),
        ("import subprocess; subprocess.run(['true'])", "PermissionError"),
        ("import os; os.kill(os.getppid(), 9)", "PermissionError"),
    ],
)
def test_a_failing_checker_is_the_reason_of_one_sample(
    tmp_path: Path, body: str, reason: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        body = body.replace("PORT", str(server.getsockname()[1]))
        source = (
            f"def check(prompt, answer, reference):\n    if answer == 'bad':\n        {body}\n"
            "    return True\n"
        )
        prompt = prompt_of(tmp_path, source, seconds=2)
        verdict = verdict_of(prompt, "bad")
    assert verdict.score == 0
    assert verdict.reason.startswith("my_checker.py:check: ")
    assert reason in verdict.reason
    assert verdict.reason.endswith("(prompt 0123)")
    assert verify(prompt, "good"), (
        "the next sample is checked as if nothing had happened"
    )
    assert not Path("/tmp/checker-was-here").exists()


def test_a_checker_knows_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    source = "import os\ndef check(prompt, answer, reference):\n    raise ValueError(os.environ)\n"
    reason = verdict_of(prompt_of(tmp_path, source), "x").reason
    assert "ValueError" in reason
    assert "canary" not in reason


def test_a_checker_sees_into_no_other_process(tmp_path: Path) -> None:
    """The environment of the step, and of the one that started it, holds credentials."""
    source = (
        "import os, pathlib\n"
        "def check(prompt, answer, reference):\n"
        "    parent = pathlib.Path('/proc', str(os.getppid()))\n"
        "    status = (parent / 'status').read_text()\n"
        "    grandparent = status.partition('PPid:')[2].split()[0]\n"
        "    for process in (parent, parent.with_name(grandparent)):\n"
        "        for file in ('environ', 'mem', 'maps', 'root/etc/hostname', 'cwd'):\n"
        "            try:\n"
        "                open(process / file, 'rb').close()\n"
        "            except PermissionError:\n"
        "                continue\n"
        "            raise ValueError(f'{process / file} could be opened')\n"
        "    return open(__file__).read() != ''\n"
    )
    assert verdict_of(prompt_of(tmp_path, source), "x") == Verdict(1.0)


def test_the_bundle_has_what_the_checker_imports_and_its_digest_is_that_of_the_code(
    tmp_path: Path,
) -> None:
    package = tmp_path / "rules"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "words.txt").write_text("yes")
    (package / "deep.py").write_text(
        "from pathlib import Path\nimport helper\n"
        "WORDS = (Path(__file__).parent / 'words.txt').read_text().split()\n"
        "def check(prompt, answer, reference):\n    return helper.clean(answer) in WORDS\n"
    )
    (tmp_path / "helper.py").write_text("def clean(text):\n    return text.strip()\n")
    (tmp_path / "unrelated.py").write_text("raise SystemExit\n")
    recipe = recipe_with(tmp_path, "rules.deep:check")
    path = tmp_path / "recipe.yaml"
    first = bundle_of(recipe, path)
    assert bundle_of(recipe, path) == first
    register(hashlib.sha256(first).hexdigest(), tmp_path / "checker.zip")
    (tmp_path / "checker.zip").write_bytes(first)
    prompt = Prompt(
        id="0",
        text="?",
        verifier="rules.deep:check",
        check=Check(code=hashlib.sha256(first).hexdigest()),
    )
    assert [verify(prompt, text) for text in (" yes", "no")] == [True, False]
    (tmp_path / "unrelated.py").write_text("changed = 1\n")
    assert bundle_of(recipe, path) == first
    for file in (package / "words.txt", tmp_path / "helper.py"):
        file.write_text(file.read_text() + "\n# changed\n")
        changed = bundle_of(recipe, path)
        assert changed != first
        first = changed


def test_files_that_a_checker_names_travel_with_it(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    for name in ("words.txt", "lists/more.txt", "unnamed.txt"):
        (tmp_path / name).write_text(name)
    prompt = prompt_of(
        tmp_path,
        "from pathlib import Path\n"
        "WORDS = open('words.txt').read()\n"
        "HERE = Path(__file__).parent\n"
        "def check(prompt, answer, reference):\n"
        "    texts = (WORDS, (HERE / 'lists/more.txt').read_text())\n"
        "    outside = ('/etc/passwd', '../words.txt', 'no.txt', 'a\\0.txt', 'lists')\n"
        "    return answer in texts and not (HERE / ('unn' + 'amed.txt')).exists()\n",
    )
    answers = ("words.txt", "lists/more.txt", "unnamed.txt")
    assert [verify(prompt, answer) for answer in answers] == [True, True, False]
    with zipfile.ZipFile(tmp_path / "checker.zip") as bundle:
        assert bundle.namelist() == ["lists/more.txt", "my_checker.py", "words.txt"]


def test_the_bundle_has_a_package_that_is_installed_in_a_virtual_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / ".venv" / "site-packages" / "installed_rules"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__pycache__" / "deep.pyc").touch()
    (package / "__init__.py").touch()
    (package / "deep.py").write_text(
        "def check(prompt, answer, reference):\n    return True\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    recipe = recipe_with(tmp_path, "installed_rules.deep:check")
    with zipfile.ZipFile(
        io.BytesIO(bundle_of(recipe, tmp_path / "recipe.yaml"))
    ) as bundle:
        assert bundle.namelist() == [
            "installed_rules/__init__.py",
            "installed_rules/deep.py",
        ]


@pytest.mark.parametrize(
    ("source", "verifier", "message"),
    [
        ("x = 1", "my_checker.py:check", "has no function 'check'"),
        (
            "def check(:",
            "my_checker.py:check",
            r"my_checker.py, line 1: invalid syntax",
        ),
        ("async def check(): ...", "my_checker.py:check", "line 1: check is async"),
        (
            "class check:\n    async def verify(self): ...",
            "my_checker.py:check",
            "line 2: verify is async, .* make it a plain function",
        ),
        ("", "other.py:check", "there is no file"),
        (
            "",
            "json.py:check",
            "json is the name of a module that is there already; .* my_json.py",
        ),
        ("", "no_such_module.deep:check", "there is no module 'no_such_module.deep'"),
    ],
)
def test_a_mistake_that_the_source_shows_is_found_before_anything_runs(
    tmp_path: Path, source: str, verifier: str, message: str
) -> None:
    (tmp_path / "my_checker.py").write_text(source)
    with pytest.raises(UserError, match=message):
        bundle_of(recipe_with(tmp_path, verifier), tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    "verifier",
    ["vibes", "../up.py:check", "/abs.py:check", "a.py", "os:system()", "a:b:c", ":f"],
)
def test_what_is_no_name_of_a_verifier_is_refused(
    tmp_path: Path, verifier: str
) -> None:
    with pytest.raises(UserError, match=r"no verifier .* my_checker.py:check"):
        recipe_with(tmp_path, verifier)


def test_prepare_takes_the_code_from_the_store_and_every_row_names_it(
    context: Context, tmp_path: Path
) -> None:
    (tmp_path / "my_checker.py").write_text(
        "def check(prompt, answer, reference):\n"
        "    return answer.split()[0] == reference['answer'].split()[0]\n"
    )
    path = tmp_path / "recipe.yaml"
    sent = send_checker_code(recipe_with(tmp_path), path, context.store.root, {})
    assert sent.run_id != recipe_with(tmp_path).run_id
    start = prepare(context, sent.model_dump(mode="json"))
    campaign = load_campaign(context, receipt_uri(context, start))
    assert campaign.prepared.objects["checker.zip"].sha256 == sent.data.checker_code
    assert read_summary(campaign.prepared, PrepareSummary).rejected == {}
    (prompt, *_) = read_rows(
        fetch(context, campaign.prepared, "splits/validation.jsonl"), Prompt
    )
    assert prompt.check.code == sent.data.checker_code
    assert verify(prompt, "yes 999")
    assert not verify(prompt, "no")


def test_prepare_tries_the_checker_on_rows_and_names_the_line(
    context: Context, tmp_path: Path
) -> None:
    (tmp_path / "my_checker.py").write_text(
        "def check(prompt, answer, reference):\n    return reference['level'] == 3\n"
    )
    path = tmp_path / "recipe.yaml"

    def prepared(**source: Any) -> None:
        sent = send_checker_code(
            recipe_with(tmp_path, **source), path, context.store.root, {}
        )
        prepare(context, sent.model_dump(mode="json"))

    with pytest.raises(
        UserError,
        match=r"verifier my_checker.py:check: my_checker.py line 2: KeyError: 'level'; "
        r"asked about line 1, the prompt 'ask 0'",
    ):
        prepared()
    # Other fields of a row reach the checker by name.
    with pytest.raises(UserError, match="no_reference, first at line 1: no 'level'"):
        prepared(reference_fields=["level"])
    lines = [
        json.dumps({"prompt": f"ask {n}", "completion": "yes", "level": 3})
        for n in range(NUM_ROWS)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    prepared(reference_fields=["level"])


def test_a_recipe_whose_code_did_not_come_along_is_refused(
    context: Context, tmp_path: Path
) -> None:
    recipe = recipe_with(tmp_path).model_dump(mode="json")
    with pytest.raises(UserError, match="did not come along"):
        prepare(context, recipe)
    recipe["data"]["checker_code"] = "0" * 64
    with pytest.raises(UserError, match="has no such object"):
        prepare(context, recipe)


def test_the_example_of_the_page_works(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "checkers.md").read_text()
    blocks = re.findall(
        r"^```(?:python|yaml)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
    )
    checker, recipe_text, recipe_of_code, recipe_of_json, _, recipe_of_task = blocks
    for text in (recipe_of_code, recipe_of_json, recipe_of_task):
        parse_recipe({**RECIPE, "decide": GOAL, **yaml.safe_load(text)})
    (tmp_path / "my_checker.py").write_text(checker)
    (row,) = re.findall(r"`(\{\"prompt\".*?\})`", page, re.DOTALL)
    flag = json.loads(" ".join(row.split()))
    rows = [
        json.dumps({**flag, "prompt": f"{n}. {flag['prompt']}"})
        for n in range(NUM_ROWS)
    ]
    (tmp_path / "colours.jsonl").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    recipe = parse_recipe({**RECIPE, "decide": GOAL, **yaml.safe_load(recipe_text)})
    sent = send_checker_code(recipe, tmp_path / "recipe.yaml", context.store.root, {})
    start = prepare(context, sent.model_dump(mode="json"))
    campaign = load_campaign(context, receipt_uri(context, start))
    (prompt, *_) = read_rows(
        fetch(context, campaign.prepared, "splits/test.jsonl"), Prompt
    )
    verdict = verdict_of(prompt, "It is green and red.")
    assert (round(verdict.score, 3), verdict.reason) == (0.667, "missing: white")
    assert not verify(prompt, "It is green and red.")
    assert verify(prompt, "White, red, green")
