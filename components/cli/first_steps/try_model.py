"""Answers of a model, or of several side by side, to questions of one's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.text import Text

from components.canonical import JsonObject
from components.cli.first_steps.new_recipe import naming_field_options, source_of
from components.cli.stores import existing_run, may_be_run
from components.contracts.recipe import ModelSection
from components.contracts.releases import Line
from components.contracts.rows import Conversation, Dropped, Prompt, prompt_id
from components.errors import UserError
from components.prepare.readers import read_source
from components.report.runs import load_run
from components.report.views import RunView
from components.report.words import cut
from components.runtime.campaign import checkpoint_in
from components.runtime.context import Context
from components.runtime.ledger import (
    RELEASE_SCHEME,
    fetch_release,
    read_lines,
    receipt_of,
    release_in_force,
    weights_digest,
)
from components.runtime.receipts import fetch_folder, read_receipt
from components.storage.sources import local_path

if TYPE_CHECKING:
    from components.modeling.inference.answers import Answerer

BATCH_SIZE = 32
SHOWN_CHARACTERS = 2000
BASE = "base"
CHAMPION = "champion"


@dataclass(frozen=True)
class Settings:
    """How answers are drawn."""

    temperature: float
    max_new_tokens: int
    system_prompt: str


class _Checkpoint(NamedTuple):
    folder: Path
    weights: str
    """Digest of the weights."""


class Models:
    """Models by name, loaded one after the other and kept."""

    def __init__(
        self, context: Context, target: str, settings: Settings, *, compare: bool
    ) -> None:
        """Find what `target` names.

        Raises:
            UserError: It is neither a run with a champion nor a model.
        """
        self._context = context
        self._settings = settings
        self._stack = ExitStack()
        self._answerers: dict[str, Answerer] = {}
        self.folders = self._find(target, compare=compare)

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _find(self, target: str, *, compare: bool) -> dict[str, Path]:
        """Return name → checkpoint folder."""
        if target.startswith(RELEASE_SCHEME) and not compare:
            line = release_in_force(self._context, target)
            return {target: self._release_folder(line)}
        view = None
        if may_be_run(target):
            # Without a run there is nothing to try, and no model of the name `latest` is meant.
            view = load_run(self._context, existing_run(self._context, target))
        if view is None or not view.tasks:
            if compare:
                raise UserError(
                    f"--compare needs a run, and {target!r} is none of this store"
                )
            return {target: self._model_folder(target)}
        if view.state is None or view.state.champion is None:
            raise UserError(
                f"run {view.run_id} has no champion yet: the base is not measured"
            )
        champion = self._checkpoint(view.state.champion)
        if not compare:
            return {CHAMPION: champion.folder}
        base = self._checkpoint(view.state.prepared)
        folders = {BASE: base.folder, CHAMPION: champion.folder}
        release = self._last_release(view, other_than={base.weights, champion.weights})
        if release is not None:
            folders[f"release {release.version}"] = self._release_folder(release)
        return folders

    def _checkpoint(self, ref: str) -> _Checkpoint:
        """Return the model of a receipt."""
        receipt = read_receipt(self._context, ref)
        name = checkpoint_in(receipt, 0)
        folder = fetch_folder(self._context, receipt, name)
        return _Checkpoint(folder, weights_digest(receipt, name))

    def _last_release(self, view: RunView, other_than: set[str]) -> Line | None:
        """Return the newest release under the run's name of a model with other weights."""
        if view.recipe is None:
            return None
        for line in reversed(read_lines(self._context, view.recipe.publish.name)):
            if line.weights not in other_than:
                return line
        return None

    def _release_folder(self, line: Line) -> Path:
        parent = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="try-"))
        )
        return fetch_release(self._context, receipt_of(self._context, line), parent)

    def _model_folder(self, source: str) -> Path:
        from components.modeling.base import materialise_base

        folder = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="try-"))
        )
        environment = self._context.environment
        try:
            materialise_base(
                ModelSection(source=source), 0, folder / "model", environment, folder
            )
        except UserError as error:
            root = self._context.store.root
            raise UserError(f"no run of {root}, and no model: {error}") from None
        return folder / "model"

    def answers(self, name: str, prompts: Sequence[Prompt]) -> list[str]:
        """Return the answer of one model to each prompt."""
        samples = self._answerer(name).answer(prompts, [[0]] * len(prompts))
        return [sample.text for sample in samples]

    def _answerer(self, name: str) -> Answerer:
        if name not in self._answerers:
            from components.modeling.inference.answers import Answerer, load_for_answers
            from components.modeling.inference.sampling import Sampling

            model, codec = load_for_answers(
                self.folders[name], self._settings.system_prompt
            )
            sampling = Sampling(
                temperature=self._settings.temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=self._settings.max_new_tokens,
                batch_size=BATCH_SIZE,
            )
            self._answerers[name] = Answerer(model, codec, sampling)
        return self._answerers[name]


@dataclass(frozen=True)
class Tried:
    """One prompt and what each model said."""

    prompt: Prompt
    answers: dict[str, str]
    """Model → what it said."""
    right: dict[str, bool]
    """Model → the verifier's verdict; empty without a reference answer."""


def prompts_of(
    uri: str,
    verifier: str,
    environment: Mapping[str, str],
    limit: int,
    fields: Mapping[str, str] = MappingProxyType({}),
) -> list[Prompt]:
    """Return the prompts of a file, labelled or not.

    Args:
        uri: Path or URI of the file.
        verifier: Checks answers to labelled prompts.
        environment: Home folder, and how to reach what is elsewhere.
        limit: Prompts at most.
        fields: `prompt_field` and `completion_field` where the names are unusual.

    Raises:
        UserError: The file cannot be read, or asks nothing.
    """
    changes = {"split": "unlabelled", "limit": limit}
    source = source_of(uri, verifier, fields).model_copy(update=changes)
    path = local_path(uri, environment, Path(), or_folder=True)
    with naming_field_options():
        examples = [
            item for item in read_source(path, source) if not isinstance(item, Dropped)
        ]
    prompts = [example.as_prompt() for example in examples if example.prompt]
    if not prompts:
        raise UserError(f"{uri}: it asks nothing; rows need a prompt")
    return prompts


def try_prompts(models: Models, prompts: Sequence[Prompt]) -> list[Tried]:
    """Return the answers of all models to all prompts."""
    from components.verifiers import verify

    answers_by_model = {name: models.answers(name, prompts) for name in models.folders}
    tried: list[Tried] = []
    for index, prompt in enumerate(prompts):
        answers = {name: texts[index] for name, texts in answers_by_model.items()}
        right: dict[str, bool] = {}
        if prompt.reference:
            right = {name: verify(prompt, text) for name, text in answers.items()}
        tried.append(Tried(prompt, answers, right))
    return tried


def print_tried(console: Console, tried: Sequence[Tried]) -> None:
    """Print prompts, answers and, where references are known, how many are right."""
    names = list(tried[0].answers)
    width = max(len("expected"), *(len(cut(name, 20)) for name in names))
    for item in tried:
        console.print()
        console.print(Text(cut(item.prompt.text, SHOWN_CHARACTERS), style="bold"))
        for name, text in item.answers.items():
            style = ""
            if item.right:
                style = "green" if item.right[name] else "yellow"
            label = (f"  {cut(name, 20):<{width}}  ", "dim")
            console.print(Text.assemble(label, (cut(text, SHOWN_CHARACTERS), style)))
        if item.right:
            expected = str(item.prompt.reference.get("answer", ""))
            console.print(
                Text(f"  {'expected':<{width}}  {cut(expected)}", style="dim")
            )
    counted = [item for item in tried if item.right]
    if counted:
        console.print()
        for name in names:
            num_right = sum(item.right[name] for item in counted)
            console.print(Text(f"{cut(name, 20)}: {num_right} of {len(counted)} right"))


def as_document(tried: Sequence[Tried]) -> dict[str, object]:
    """Return the answers for programs."""
    answers = [
        {
            "prompt": item.prompt.text,
            "expected": item.prompt.reference.get("answer"),
            "said": item.answers,
            "right": item.right,
        }
        for item in tried
    ]
    return {"answers": answers}


def chat(models: Models, lines: Iterator[str], console: Console) -> None:
    """Answer one line after the other; a model sees the turns before, if its template has turns."""
    turns: dict[str, list[JsonObject]] = {name: [] for name in models.folders}
    for line in lines:
        if not line.strip():
            continue
        for name in models.folders:
            messages: list[JsonObject] = [
                *turns[name],
                {"role": "user", "content": line},
            ]
            conversation = (
                Conversation(messages=tuple(messages)) if len(messages) > 1 else None
            )
            prompt = Prompt(
                id=prompt_id(line),
                text=line,
                conversation=conversation,
                verifier="exact",
            )
            (text,) = models.answers(name, [prompt])
            console.print(
                Text.assemble(
                    (f"{cut(name, 20)}: ", "dim"), cut(text, SHOWN_CHARACTERS)
                )
            )
            turns[name] = [*messages, {"role": "assistant", "content": text}]


def continue_texts(models: Models, lines: Iterator[str], console: Console) -> None:
    """Go on with each line as with the beginning of a raw text; no line knows of the others."""
    for line in lines:
        if not line.strip():
            continue
        beginning = Prompt(
            id=prompt_id(line), text=line, is_text=True, verifier="exact"
        )
        for name in models.folders:
            (text,) = models.answers(name, [beginning])
            continuation = cut(text, SHOWN_CHARACTERS)
            label = (f"{cut(name, 20)}: ", "dim")
            console.print(Text.assemble(label, (line, "bold"), continuation))
