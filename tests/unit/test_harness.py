"""lm-eval's tasks from a local folder: a real run of the real library, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.contracts.summaries import EvaluateSummary
from components.errors import UserError
from components.evaluate.harness import (
    digest_of_folder,
    read_tasks,
    require_known_metrics,
)
from components.evaluate.task_patterns import bounded_patterns
from components.evaluate.task_templates import bounded_templates
from components.runtime.context import Context
from components.runtime.receipts import read_summary
from tests.unit.crafted import decided, recipe_of
from tests.unit.measuring import begun, evaluate, model, question

TASK = """
task: parity
dataset_path: json
dataset_kwargs: {data_files: {test: data/parity.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["1", "2"]
doc_to_target: label
target_delimiter: ""
metric_list: [{metric: acc}]
"""
QUESTIONS = [
    {"question": f"{number:02d}=", "label": number % 2} for number in range(12)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tasks"
    (made / "data").mkdir(parents=True)
    (made / "parity.yaml").write_text(TASK)
    (made / "data" / "parity.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in QUESTIONS)
    )
    return made


@pytest.mark.process
def test_a_local_task_is_run_on_the_candidate_and_its_numbers_are_in_the_receipt(
    context: Context, folder: Path
) -> None:
    harness = {"folder": folder.as_uri(), "tasks": ["parity"]}
    recipe = recipe_of(generate={"max_new_tokens": 2}, evaluate={"harness": harness})
    prompts: dict[str, Any] = {"validation": [question(1)], "test": [question(2)]}
    start, first = begun(context, recipe, **prompts), model(context, 0)
    receipt = evaluate(context, start, first)
    found = read_summary(receipt, EvaluateSummary).harness["parity"]
    assert 0.0 <= found["acc"] <= 1.0
    assert found["acc"] * len(QUESTIONS) == pytest.approx(
        round(found["acc"] * len(QUESTIONS))
    )
    # A receipt that exists is used again; an edited task is new work.
    assert evaluate(context, start, first).ref == receipt.ref
    (folder / "data" / "parity.jsonl").write_text(
        json.dumps(QUESTIONS[0] | {"label": 1}) + "\n"
    )
    assert evaluate(context, start, first).ref != receipt.ref
    state = decided(
        context,
        start,
        champion=first.ref,
        champion_evaluation=receipt.ref,
        first_evaluation=receipt.ref,
    )
    second = read_summary(evaluate(context, state, model(context, 1)), EvaluateSummary)
    assert second.measurement.champion_reused is False


def test_without_the_setting_it_is_not_run(context: Context) -> None:
    start = begun(
        context,
        recipe_of(generate={"max_new_tokens": 2}),
        validation=[question(1)],
        test=[question(2)],
    )
    assert (
        read_summary(
            evaluate(context, start, model(context, 0)), EvaluateSummary
        ).harness
        == {}
    )


def refusal(folder: Path, *names: str) -> str:
    with pytest.raises(UserError) as caught:
        read_tasks(folder, names or ("parity",))
    return str(caught.value)


def test_tasks_that_would_run_code_or_need_a_network_are_refused(folder: Path) -> None:
    task = folder / "parity.yaml"
    assert read_tasks(folder, ["parity"])[0]["dataset_kwargs"]["data_files"] == {
        "test": str(folder / "data" / "parity.jsonl")
    }
    assert "no task 'gsm8k'" in refusal(folder, "gsm8k")
    assert "parity" in refusal(folder, "gsm8k")
    for change, said in (
        (
            ("doc_to_target: label", "doc_to_target: !function evil.target"),
            "tags that run code are refused",
        ),
        (("dataset_path: json", "dataset_path: someone/parity"), "without a network"),
        (("task: parity", "task: parity\ninclude: /etc/passwd"), "without a network"),
        (
            ("task: parity", "task: parity\nuse_prompt: evil.yaml:a"),
            "without a network",
        ),
        (("data/parity.jsonl", "../../secret.jsonl"), "which is no file in"),
        (
            (
                "dataset_kwargs: {data_files: {test: data/parity.jsonl}}",
                "dataset_kwargs: {}",
            ),
            "data_files",
        ),
    ):
        task.write_text(TASK.replace(*change))
        assert said in refusal(folder)
    task.write_text(TASK)
    (folder / "again.yml").write_text(TASK)
    assert "both task 'parity'" in refusal(folder)


@pytest.mark.process
@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ cycler.__init__.__globals__.os.mkdir(PLACE) }}", "unsafe"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ row.append(1) }}", "unsafe"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "2 s of",
        ),
        ("{{ 'x' * 10**10 }}", "1024 MiB of memory"),
        ("{{ 'x' * 2000000 }}", "2,000,000 characters"),
        (
            "{{ question | regex_replace('(0|0)*=?$', '', 1) }}{{ (question * 60) | "
            "regex_replace('(0|0)+b', '') }}",
            "2 s of",
        ),
        ("{{ nothing }}", "'nothing' is undefined"),
    ],
)
def test_a_template_of_a_task_runs_no_code_and_takes_only_so_much(
    tmp_path: Path, template: str, words: str
) -> None:
    from lm_eval import utils

    place = tmp_path / "made"
    row = {"question": "000", "row": [1]}
    with bounded_templates():
        assert utils.apply_template("{{question}}= {{row[0]}}\n", row) == "000= 1\n"
        with pytest.raises(UserError, match=words):
            utils.apply_template(template.replace("PLACE", repr(str(place))), row)
        assert (
            utils.apply_template("{{question|regex_replace('0', '1', 2)}}", row)
            == "110"
        )
    assert not place.exists()
    assert utils.apply_template("{{question}}", row) == "000"


@pytest.mark.process
def test_a_pattern_of_a_task_finds_what_python_finds_and_takes_only_so_long() -> None:
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import MultiChoiceRegexFilter, RegexFilter

    answers = [["#### 12 and #### 13", "none"], ["(B) is it", "x: A"]]
    rows: list[dict[str, Any]] = [{"choices": ["one", "two"]}] * 2
    settings: list[dict[str, Any]] = [
        {"regex_pattern": r"#### (\d+)", "group_select": -1},
        {"regex_pattern": r"(#)|(\d)(?=\d)|\((\w)\)"},
        {"regex_pattern": r"(?<=: )\w"},
    ]
    for one in settings:
        plain = [
            kind(**one).apply(answers, rows)
            for kind in (RegexFilter, MultiChoiceRegexFilter)
        ]
        with bounded_patterns():
            assert plain == [
                kind(**one).apply(answers, rows)
                for kind in (RegexFilter, MultiChoiceRegexFilter)
            ]
    endless = "(a|a)+b"
    with bounded_patterns():
        assert exact_match_hf_evaluate(["1,000"], ["1000"], [","])["exact_match"] == 1.0
        with pytest.raises(UserError, match=r"'\(a\|a\)\+b'.*2 s of"):
            RegexFilter(endless).apply([["a" * 40]], [{}])
        with pytest.raises(UserError, match="2 s of"):
            exact_match_hf_evaluate(["a" * 40], ["a"], [endless])
        with pytest.raises(UserError, match=r"missing .*correct the task file"):
            RegexFilter("(a")
        # The next search has a process again.
        assert RegexFilter("a+").apply([["baab"]], [{}]) == [["aa"]]


def test_metrics_that_are_scripts_are_refused() -> None:
    require_known_metrics([{"task": "parity", "metric_list": [{"metric": "acc"}]}])
    for metric in (
        {"metric": "/tasks/evil"},
        {"metric": "acc", "hf_evaluate": True},
        "acc",
    ):
        with pytest.raises(UserError, match="scripts that would be run"):
            require_known_metrics([{"task": "parity", "metric_list": [metric]}])


def test_the_digest_covers_names_and_bytes(folder: Path) -> None:
    before = digest_of_folder(folder)
    (folder / "data" / "parity.jsonl").rename(folder / "data" / "other.jsonl")
    assert digest_of_folder(folder) != before
