"""`estimate` tells costs from what earlier runs took, and refuses what it cannot estimate."""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from components.cli.estimate.calibration import (
    Calibration,
    Cost,
    Part,
    Rate,
    measured_rate,
    rate_through,
)
from components.cli.estimate.earlier_run import calibration_like, earlier_calibration
from components.cli.estimate.forecast import (
    forecast,
    money_of,
    price_table,
    rounds_within,
)
from components.contracts.recipe_file import parse_recipe
from components.errors import UserError
from components.report.runs import load_run
from components.runtime.attempts import Task, attempting
from components.runtime.context import Context
from tests.unit.commanding import TINY, cli, command, environment
from tests.unit.handmade import RECIPE, Campaign
from tests.waiting import wait_until

SECOND = Cost(seconds=1.0)


def calibration(**changes: Any) -> Calibration:
    """Each task takes a second, a training step a tenth and 10 tokens, a sample 2 tokens."""
    settings: dict[str, Any] = {
        "source": "trial",
        "uncertainty": 0.25,
        "cores": 2,
        "gpus": 0,
        "start": SECOND,
        "prepare": SECOND,
        "evaluate_base": SECOND,
        "evaluate": Cost(seconds=1.0, tokens_sampled=50),
        "first_training": Rate(fixed=SECOND, unit=Cost(seconds=0.1, tokens_trained=10)),
        "round_training": Rate(fixed=SECOND, unit=Cost(seconds=0.1, tokens_trained=10)),
        "generate": Rate(unit=Cost(seconds=0.01, tokens_sampled=2)),
        "select": Rate(),
        "decide": SECOND,
        "publish": SECOND,
        "num_samples": 100,
    }
    return Calibration(**{**settings, **changes})


def recipe_with(**sections: Any) -> Any:
    return parse_recipe({**RECIPE, **sections})


def part(num_units: int, seconds: float) -> Part:
    return Part(
        num_units=num_units, cost=Cost(seconds=seconds, tokens_sampled=4.0 * num_units)
    )


@pytest.mark.parametrize(
    ("smaller", "larger", "total_seconds"),
    [
        # 2 s, and 0.1 s for each unit.
        (part(10, 3.0), part(40, 6.0), 12.0),
        # Nothing is known to be fixed.
        (None, part(40, 6.0), 15.0),
        (part(40, 6.0), part(40, 6.0), 15.0),
        # A smaller part that took longer was disturbed: no task gets faster by being larger.
        (part(10, 7.0), part(40, 6.0), 6.0),
        # A larger part that grew by more than it took: nothing is fixed, and nothing below it.
        (part(10, 0.0), part(40, 6.0), 15.0),
    ],
)
def test_a_task_grows_as_its_measured_parts_do(
    smaller: Part | None, larger: Part, total_seconds: float
) -> None:
    rate = rate_through(smaller, larger)
    assert rate.cost_of(100).seconds == pytest.approx(total_seconds)
    assert rate.cost_of(larger.num_units).seconds == pytest.approx(larger.cost.seconds)
    assert rate.cost_of(100).tokens_sampled == 400


@pytest.mark.parametrize(
    ("num_units", "unit_seconds", "sizes"),
    [
        # The whole task is measured where there is time for it; short parts are done twice.
        (10, 0.001, [10, 10]),
        (100, 0.001, [16, 16, 64, 64, 100, 100]),
        # The next part would take longer than is wanted.
        (5000, 0.008, [16, 64, 256]),
        # Two parts at least, or what is fixed would be taken to grow with the task.
        (5000, 0.1, [16, 64]),
        # But not if the first one alone takes too long.
        (5000, 0.5, [16]),
    ],
)
def test_parts_grow_until_they_tell_the_cost_of_the_whole(
    num_units: int, unit_seconds: float, sizes: list[int]
) -> None:
    measured: list[int] = []

    def measure(size: int) -> Part:
        measured.append(size)
        return part(size, 0.4 + unit_seconds * size)

    rate = measured_rate(measure, num_units, seconds=4.0)
    assert measured == sizes
    if len(set(sizes)) > 1:
        assert rate.cost_of(num_units).seconds == pytest.approx(
            0.4 + unit_seconds * num_units
        )


def test_a_disturbance_of_a_short_part_is_passed_over() -> None:
    times = iter([0.2, 9.0, 0.3, 0.3])
    rate = measured_rate(
        lambda size: part(size, next(times)), num_units=20, seconds=4.0
    )
    assert rate.cost_of(20).seconds == pytest.approx(0.3)


def test_rounds_cost_what_their_tasks_cost_and_are_no_more_than_are_unrolled() -> None:
    recipe = recipe_with(train={"first": {"steps": 100}, "rounds": {"steps": 40}})
    plan = forecast(recipe, calibration(), rounds=8)
    assert plan.num_rounds == 3
    assert forecast(recipe, calibration(), rounds=2).num_rounds == 2
    each = plan.cost_of(2).seconds - plan.cost_of(1).seconds
    # generate 1 s, training 5 s, evaluate and decide 1 s each; and the gaps between five tasks.
    assert each == pytest.approx(8 + 5 * 0.15)
    assert plan.least == plan.cost_of(1)
    assert plan.most.tokens_trained == 100 * 10 + 3 * 40 * 10
    assert plan.most.tokens_sampled == 3 * 100 * 2 + 4 * 50


def test_a_campaign_without_a_supervised_stage_has_no_round_0() -> None:
    recipe = recipe_with(train={"first": {"steps": 0}})
    tasks = [line.task for line in forecast(recipe, calibration(), rounds=2).before]
    assert tasks == ["start", "prepare", "evaluate-base", "first-champion"]


@pytest.mark.parametrize(
    ("budget", "number"),
    [
        ({}, None),
        ({"minutes": 600}, None),
        # Without the start all takes 16 s up to round 0's end, and each later round 8.75 s.
        ({"minutes": 0.1}, 0),
        ({"minutes": 0.55}, 1),
        # Evaluations do not count: 1,000 tokens, then 600 a round.
        ({"tokens": 1999}, 0),
        ({"tokens": 2000}, 1),
        ({"tokens": 2200}, 2),
        ({"tokens": 2800}, None),
        ({"tokens": 2200, "minutes": 0.55}, 1),
    ],
)
def test_the_last_round_within_the_budget_is_told(
    budget: dict[str, Any], number: int | None
) -> None:
    recipe = recipe_with(
        train={"first": {"steps": 100}, "rounds": {"steps": 40}},
        decide={**RECIPE["decide"], "budget": budget},
    )
    assert rounds_within(recipe, forecast(recipe, calibration(), rounds=3)) == number


def test_prices_are_of_hours_of_what_the_machine_has_and_of_tokens_that_are_bought() -> (
    None
):
    cost = Cost(seconds=7200, tokens_sampled=5e6, tokens_bought=2e6)
    prices = price_table(
        ("machine-hour=1.5", "core-hour=0.1", "gpu-hour=3", "million-tokens=0.5")
    )
    machine = calibration(cores=16, gpus=2)
    assert money_of(cost, machine, prices) == pytest.approx(3 + 3.2 + 12 + 1)
    assert money_of(cost, calibration(), {"gpu-hour": 3.0}) == 0


@pytest.mark.parametrize(
    "text",
    [
        "hour=1",
        "gpu-hour",
        "gpu-hour=",
        "gpu-hour=-1",
        "gpu-hour=nan",
        "core-hour=inf",
        "=",
    ],
)
def test_a_price_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--price"):
        price_table((text,))


def decided_run(context: Context) -> Campaign:
    made = Campaign(context)
    made.prepare()
    made.round(0, 0.41, "promoted")
    made.round(1, 0.68, "promoted")
    made.round(2, 0.70, "rejected")
    return made


def test_an_earlier_run_of_the_recipe_tells_the_costs(context: Context) -> None:
    made = decided_run(context)
    host = load_run(context, made.run_id).tasks[0].last.host
    found = earlier_calibration(context, made.recipe, host)
    assert found is not None
    assert (found.source, found.run_id) == ("earlier run", made.run_id)
    # Two shards of 6 s, one after the other in this run made by hand, and 400 samples of each.
    assert found.generate.cost_of(found.num_samples).seconds == pytest.approx(12)
    assert found.num_samples == 800
    assert found.evaluate.seconds == pytest.approx(4)
    assert earlier_calibration(context, made.recipe, "another machine") is None
    with_name = made.recipe.model_copy(update={"name": "another", "seed": 7})
    assert earlier_calibration(context, with_name, host) == found


@pytest.mark.parametrize(
    ("section", "changes", "factor"),
    [
        ("generate", {"prompts_per_round": 2000}, 2),
        ("generate", {"samples_per_prompt": 12}, 3),
        ("train", {"rounds": {"steps": 999}}, 1),
        ("select", {"min_accepted": 7}, 1),
        ("generate", {"max_new_tokens": 63}, None),
        ("train", {"batch_size": 8}, None),
        ("evaluate", {"pass_k": 2}, None),
        ("model", {"scratch": {"hidden_size": 96}}, None),
    ],
)
def test_amounts_of_work_may_differ_from_the_earlier_run_and_rates_may_not(
    context: Context, section: str, changes: dict[str, Any], factor: int | None
) -> None:
    made = decided_run(context)
    host = load_run(context, made.run_id).tasks[0].last.host
    found = earlier_calibration(context, recipe_with(**{section: changes}), host)
    if factor is None:
        assert found is None
    else:
        assert found is not None
        assert found.num_samples == 800 * factor


def test_a_task_that_was_interrupted_tells_no_rate(context: Context) -> None:
    made = decided_run(context)
    task = Task(run_id=made.run_id, name="train-r1", round=1)
    whole = calibration_like(context, made.run_id, made.recipe)
    with pytest.raises(KeyboardInterrupt), attempting(context, task, "train"):
        raise KeyboardInterrupt
    made_again = calibration_like(context, made.run_id, made.recipe)
    # Round 2 alone is left, which took as long.
    assert made_again.round_training == whole.round_training
    task = Task(run_id=made.run_id, name="train-r2", round=2)
    with pytest.raises(KeyboardInterrupt), attempting(context, task, "train"):
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="tells no rates"):
        calibration_like(context, made.run_id, made.recipe)


def test_a_run_that_is_not_there_is_named(context: Context) -> None:
    made = decided_run(context)
    with pytest.raises(UserError, match="knows no run 'by-hnad'"):
        calibration_like(context, "by-hnad", made.recipe)


@pytest.mark.process
@pytest.mark.parametrize(
    ("recipe", "arguments", "expected"),
    [
        (None, (), "no such file"),
        (TINY.replace("goal", "gaol"), (), "did you mean 'goal'?"),
        (TINY, ("--set", "decide.goal.threshold=3"), "decide.goal.threshold"),
        (
            TINY,
            ("--price", "gpu=3"),
            "machine-hour, core-hour, gpu-hour, million-tokens",
        ),
        (TINY, ("--like", "tiny"), "knows no run 'tiny'"),
        (TINY, ("--like", "tiny", "--trial"), "leave out one of them"),
        (TINY, ("--rounds", "99"), "--rounds"),
        (TINY, ("--set", "model.source=./nowhere"), "nowhere"),
        (TINY.replace("copy", "copi"), (), "copi"),
    ],
)
def test_what_cannot_be_estimated_is_told_in_one_line_before_a_trial(
    tmp_path: Path, recipe: str | None, arguments: tuple[str, ...], expected: str
) -> None:
    if recipe is not None:
        (tmp_path / "recipe.yaml").write_text(recipe)
    done = cli(tmp_path, "estimate", "recipe.yaml", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / ".ratchet").exists(), "nothing is written"


@pytest.mark.process
def test_a_trial_that_is_asked_to_end_leaves_neither_files_nor_processes(
    tmp_path: Path,
) -> None:
    (tmp_path / "recipe.yaml").write_text(TINY)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        command("estimate", "recipe.yaml", "--trial"),
        cwd=tmp_path,
        env={**environment(), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        # The log is opened for the trial's own process, which then imports for seconds.
        wait_until(lambda: processes_of(temporary), process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, output) == (128 + signal.SIGTERM, b"")
    assert list(temporary.iterdir()) == []
    assert processes_of(temporary) == []


def processes_of(folder: Path) -> list[bytes]:
    """Return the command lines of the processes that name a file of a folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # A process may end while it is looked at.
        with suppress(OSError):
            lines.append(path.read_bytes())
    return [line for line in lines if str(folder).encode() in line]


def test_a_campaign_without_a_first_stage_has_one_round_within_any_budget() -> None:
    recipe = recipe_with(
        train={"first": {"steps": 0}, "rounds": {"steps": 40}},
        decide={**RECIPE["decide"], "budget": {"tokens": 1}},
    )
    assert rounds_within(recipe, forecast(recipe, calibration(), rounds=3)) == 1
