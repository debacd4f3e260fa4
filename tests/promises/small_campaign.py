"""A small real campaign whose steps are carried out one by one, each in a process of its own.

The processes are forked from one that has imported torch and DeepSpeed, so a step takes a second.
They share no memory, and one may be killed, starved or lied to without an end of the others.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from components.canonical import canonical_json, unsealed
from components.errors import RatchetError
from components.runtime.context import Context, make_context
from components.runtime.entrypoints import base_of, mix_of, receipt_at
from components.runtime.receipts import receipt_uri
from tests.pipeline.campaigns import recipe, write_data

RESULTS = ("steps", "objects", "models", "releases")
"""Folders of a store that are the same after the same work, whatever happened on the way."""
JOB = "job-1"
Surroundings = Callable[[Context], Context]
"""Changes the surroundings of a step."""


def small_recipe(data: Path) -> dict[str, Any]:
    """Return a recipe of few steps, which saves a checkpoint after each of them."""
    document = recipe(data)
    document["generate"].update({"batch_size": 8, "shards": 1, "prompts_per_round": 64})
    document["train"].update({"checkpoint_minutes": 0, "evaluate_every": 4})
    document["train"]["first"]["steps"] = 16
    return document


@dataclass(frozen=True)
class Ended:
    """The end of a process that carried out a step."""

    status: int
    """Exit status; negative: the signal that ended it."""
    said: str
    """Its standard error."""

    @property
    def errors(self) -> list[str]:
        """The lines that say what is wrong."""
        return [line for line in self.said.splitlines() if line.startswith("error (")]


class SmallCampaign:
    """The steps of a campaign up to its release, over a store in a folder.

    A step's stores are copies by hard links: what is stored is never written again.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """`environment` is added to that of this process."""
        self.folder = folder
        self.store = folder / "store"
        self.cache = folder / "cache"
        self.environment = {
            **os.environ,
            **(environment or {}),
            "RATCHET_CACHE": str(self.cache),
        }
        self.uris: dict[str, str] = {}
        """Step → URI of its receipt."""
        self.said: dict[str, str] = {}
        """Step → what it said when nothing happened to it."""
        folder.mkdir(parents=True, exist_ok=True)
        write_data(folder)
        self.document = small_recipe(folder)

    def each_step(self, arm: Callable[[], None]) -> Iterator[str]:
        """Carry out all steps without a fault, and yield each that is done.

        Keeps the store as it is after each. `arm` is called in the step's process before it begins.
        """
        for step in STEPS:
            shutil.rmtree(self.cache, ignore_errors=True)
            ended = self.carry_out(step, arm, note_imports=True)
            assert ended.status == 0, f"{step}: {ended.said}"
            self.uris[step] = (self.folder / "uri").read_text()
            self.said[step] = ended.said
            # Imported here, they need not be in each of the many processes to come.
            for name in (self.folder / "imports").read_text().split():
                if name not in sys.modules:
                    importlib.import_module(name)
            copy_of_store(self.store, self.folder / f"after-{step}")
            yield step

    def restore(self, step: str) -> None:
        """Put the store back to where it was before a step, with an empty cache."""
        position = list(STEPS).index(step)
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.rmtree(self.cache, ignore_errors=True)
        if position:
            before = list(STEPS)[position - 1]
            copy_of_store(self.folder / f"after-{before}", self.store)

    def carry_out(
        self,
        step: str,
        arm: Callable[[], None] = lambda: None,
        surroundings: Surroundings = lambda context: context,
        kill_after_seconds: float | None = None,
        note_imports: bool = False,
    ) -> Ended:
        """Carry out one step in a process of its own.

        Args:
            step: One of STEPS.
            arm: Called in the process before the step begins.
            surroundings: Changes the surroundings of the step.
            kill_after_seconds: Kill the process then, whatever it does.
            note_imports: Write the names of all modules that it imported to `imports`.
        """
        work = partial(self.do, step, arm, surroundings, note_imports=note_imports)
        return in_a_process(work, self.folder / "said.txt", kill_after_seconds)

    def do(
        self,
        step: str,
        arm: Callable[[], None] = lambda: None,
        surroundings: Surroundings = lambda context: context,
        *,
        note_imports: bool = False,
    ) -> None:
        """Do what `carry_out` has a process do."""
        context = surroundings(make_context(self.store.as_uri(), self.environment))
        arm()
        uri = STEPS[step](self, context)
        (self.folder / "uri").write_text(uri)
        if note_imports:
            (self.folder / "imports").write_text("\n".join(_imported()))

    def difference(self, step: str, *, progress_may_stay: bool = False) -> str:
        """Return words for what is in the store and should not, or is not and should; else empty."""
        expected = contents(self.folder / f"after-{step}")
        actual = contents(self.store)
        missing = sorted(expected.keys() - actual.keys())
        unexpected = sorted(actual.keys() - expected.keys())
        changed = sorted(
            name
            for name in expected.keys() & actual.keys()
            if expected[name] != actual[name]
        )
        if missing or changed:
            return f"missing {missing[:2]}, changed {changed[:2]}"
        # An object without a receipt is what a killed process stored first: nothing names it.
        named = [name for name in unexpected if not name.startswith("objects/")]
        if named:
            return f"unexpected {named[:2]}"
        left = [path for path in (self.store / "progress").rglob("*") if path.is_file()]
        if left and not progress_may_stay:
            return f"progress is left: {left[0].name}"
        return ""


def _imported() -> list[str]:
    """Return the names of all modules that can be imported by name, in the order of their import."""
    named = list(sys.modules.items())
    return [
        name for name, module in named if getattr(module, "__spec__", None) is not None
    ]


def in_a_process(
    work: Callable[[], None], log: Path, kill_after_seconds: float | None = None
) -> Ended:
    """Do some work in a forked process."""
    process = os.fork()
    if process == 0:
        be_a_process(work, log)
    if kill_after_seconds is not None:
        _kill_after(process, kill_after_seconds)
    _, status = os.waitpid(process, 0)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))


def be_a_process(work: Callable[[], None], log: Path) -> NoReturn:
    """Do some work as the whole of this forked process, which says what it says in `log`."""
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        work()
        status = 0
    except RatchetError as error:
        print(f"error ({type(error).__name__}): {error}", file=sys.stderr)
        status = error.exit_code
    finally:
        # Whatever was raised ends here: behind it are the frames of the process that was forked.
        if status == 1:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)


def _kill_after(process: int, seconds: float) -> None:
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)


def copy_of_store(source: Path, target: Path) -> None:
    """Copy a store by hard links; attempts are written again, so they are copied."""
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    if "/attempts/" in source or "/runs/" in source:
        shutil.copyfile(source, target)
    else:
        os.link(source, target)


def contents(store: Path) -> dict[str, bytes]:
    """Return name → bytes of what is the same after the same work."""
    found: dict[str, bytes] = {}
    for folder in RESULTS:
        for path in (store / folder).rglob("*"):
            if path.is_file():
                name = path.relative_to(store).as_posix()
                found[name] = _without_times(name, path.read_bytes())
    return found


def _without_times(name: str, data: bytes) -> bytes:
    """Return a line of the ledger without its time; other bytes as they are."""
    if not name.startswith("releases/"):
        return data
    # Without its checksum, which covers the time: `unsealed` has compared it.
    return canonical_json({**unsealed(data), "at": ""})


def _prepare(campaign: SmallCampaign, context: Context) -> str:
    from components.prepare.step import PrepareInputs, run

    return receipt_uri(
        context, run(PrepareInputs(campaign.document, {}, "", JOB), context)
    )


def _evaluate_base(campaign: SmallCampaign, context: Context) -> str:
    from components.evaluate.step import EvaluateInputs, run

    start = receipt_at(context, campaign.uris["prepare"])
    inputs = EvaluateInputs(campaign.uris["prepare"], base_of(context, start))
    return receipt_uri(context, run(inputs, context))


def _first_champion(campaign: SmallCampaign, context: Context) -> str:
    from components.decide.first_champion import FirstChampionInputs, run

    measured = receipt_at(context, campaign.uris["evaluate-base"])
    inputs = FirstChampionInputs(campaign.uris["prepare"], measured)
    return receipt_uri(context, run(inputs, context))


def _train(campaign: SmallCampaign, context: Context) -> str:
    from components.train.step import TrainInputs, run

    mix = mix_of(context, receipt_at(context, campaign.uris["prepare"]))
    return receipt_uri(
        context, run(TrainInputs(campaign.uris["first-champion"], mix), context)
    )


def _evaluate(campaign: SmallCampaign, context: Context) -> str:
    from components.evaluate.step import EvaluateInputs, run

    candidate = receipt_at(context, campaign.uris["train"])
    inputs = EvaluateInputs(campaign.uris["first-champion"], candidate)
    return receipt_uri(context, run(inputs, context))


def _decide(campaign: SmallCampaign, context: Context) -> str:
    from components.decide.step import DecideInputs, run

    mix = mix_of(context, receipt_at(context, campaign.uris["prepare"]))
    trained = receipt_at(context, campaign.uris["train"])
    measured = receipt_at(context, campaign.uris["evaluate"])
    inputs = DecideInputs(campaign.uris["first-champion"], mix, trained, measured)
    return receipt_uri(context, run(inputs, context))


def _generate(campaign: SmallCampaign, context: Context) -> str:
    from components.generate.step import GenerateInputs, run

    return receipt_uri(
        context, run(GenerateInputs(campaign.uris["decide"], 0), context)
    )


def _select(campaign: SmallCampaign, context: Context) -> str:
    from components.select.step import SelectInputs, run

    samples = receipt_at(context, campaign.uris["generate"])
    return receipt_uri(
        context, run(SelectInputs(campaign.uris["decide"], (samples,)), context)
    )


def _publish(campaign: SmallCampaign, context: Context) -> str:
    from components.publish.step import PublishInputs, run

    return receipt_uri(context, run(PublishInputs(campaign.uris["decide"]), context))


def _report(campaign: SmallCampaign, context: Context) -> str:
    from components.report.step import ReportInputs, run

    html, summary = run(ReportInputs(JOB), context)
    assert html.rstrip().endswith("</html>")
    assert summary
    return campaign.uris["publish"]


STEPS: dict[str, Callable[[SmallCampaign, Context], str]] = {
    "prepare": _prepare,
    "evaluate-base": _evaluate_base,
    "first-champion": _first_champion,
    "train": _train,
    "evaluate": _evaluate,
    "decide": _decide,
    "generate": _generate,
    "select": _select,
    "publish": _publish,
    "report": _report,
}
"""Step → carries it out and returns the URI of its receipt."""
