"""A whole recipe: all sections, and the rules between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, JsonValue, model_validator

from components.canonical import digest_of
from components.contracts.recipe.announce import AnnounceSection
from components.contracts.recipe.data import DataSection
from components.contracts.recipe.decide import DecideSection
from components.contracts.recipe.depth import depth_refusal
from components.contracts.recipe.evaluate import EvaluateSection
from components.contracts.recipe.generate import GenerateSection
from components.contracts.recipe.model import ModelSection
from components.contracts.recipe.notify import NotifySection
from components.contracts.recipe.publish import PublishSection
from components.contracts.recipe.section import Name, Section
from components.contracts.recipe.select import SelectSection
from components.contracts.recipe.train import TrainSection
from components.errors import without_passwords


def _is_absent(section: Section | None) -> bool:
    return section is None


class Recipe(Section):
    """A whole campaign."""

    name: Name
    # 31 bits: it comes through KFP as a JSON number, and some libraries take no more.
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    model: ModelSection = ModelSection()
    data: DataSection
    generate: GenerateSection = GenerateSection()
    select: SelectSection = SelectSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    decide: DecideSection
    publish: PublishSection = PublishSection()
    notify: NotifySection | None = None
    # Left out while it is null: the digest of a recipe is the name of its run, and recipes had none.
    announce: Annotated[AnnounceSection | None, Field(exclude_if=_is_absent)] = None

    @model_validator(mode="after")
    def _addresses(self) -> Recipe:
        # A recipe is stored with its run, shown in the UI and sent by CI.
        for path, text in _texts(self.model_dump(mode="json")):
            if without_passwords(text) != text:
                raise ValueError(
                    f"{path}: an address with a user or password in it; a recipe is no place for "
                    "secrets: give them by variables (AWS_ACCESS_KEY_ID, HF_TOKEN, OPENAI_API_KEY)"
                )
        return self

    @model_validator(mode="after")
    def _peers(self) -> Recipe:
        num_samples = self.generate.samples_per_prompt
        num_peers = self.train.num_peers
        if num_samples < num_peers:
            raise ValueError(
                f"generate.samples_per_prompt ({num_samples}) must be at least train.num_peers "
                f"({num_peers}): every peer answers every prompt"
            )
        return self

    @model_validator(mode="after")
    def _depth(self) -> Recipe:
        # That of any other base is in its files. `prepare` tells that an LSTM has no decoder layers.
        layers = self.train.layers
        scratch = self.model.scratch
        is_decoder = self.model.source == "scratch" and scratch.architecture != "lstm"
        if layers is not None and is_decoder:
            refusal = depth_refusal(layers, scratch.num_layers)
            if refusal:
                raise ValueError(refusal)
        return self

    @model_validator(mode="after")
    def _hints(self) -> Recipe:
        if self.generate.hints is not None and not self.select.verifier:
            raise ValueError(
                "generate.hints needs `select.verifier: true`: prompts are too hard where it "
                "accepts no answer"
            )
        return self

    @model_validator(mode="after")
    def _sampled_by_the_champion(self) -> Recipe:
        if self.train.method == "raft" and (
            self.generate.teacher or self.generate.endpoint
        ):
            raise ValueError(
                "train.method raft compares the model with the champion that drew its samples: "
                "leave out generate.teacher and generate.endpoint, or use method sft"
            )
        return self

    @model_validator(mode="after")
    def _free_text(self) -> Recipe:
        source = self.generate.source
        if source == "prompts":
            return self
        if self.select.verifier:
            raise ValueError(
                f"generate.from {source} needs `select.verifier: false`: no right answer is known"
            )
        if source == "model" and not self.select.judges_without_reference:
            raise ValueError(
                "generate.from model needs something that tells good answers from bad ones: set "
                "select.min_vote_share, calibrate_vote, verifier_function, judge, reward or people"
            )
        if self.generate.engine == "openai":
            raise ValueError(
                f"generate.from {source} needs a model that goes on with a text, and an endpoint "
                "answers questions: leave out engine openai"
            )
        return self

    @model_validator(mode="after")
    def _measure(self) -> Recipe:
        if self.decide.goal.metric != "accuracy" and self.data.ladder is not None:
            raise ValueError(
                "decide.goal.metric: a ladder's mastery is an accuracy: use metric accuracy"
            )
        return self

    @model_validator(mode="after")
    def _measured_splits(self) -> Recipe:
        for split in ("validation", "test"):
            if not self.data.can_fill(split):
                raise ValueError(
                    f"data: nothing gives rows of split {split}: give a source split: {split}, or "
                    f"one with split auto and data.fractions.{split} above 0"
                )
        return self

    @property
    def may_be_empty(self) -> frozenset[str]:
        """Splits that this campaign can do without: it neither trains on them nor asks them."""
        splits = set[str]()
        # `labelled_share: 0` is said on purpose. The tokenizer of a model from scratch needs text.
        teaches_itself = (
            self.select.labelled_share == 0 and not self.train.has_supervised_stage
        )
        if (
            teaches_itself
            and self.generate.source != "text"
            and self.model.source != "scratch"
        ):
            splits.add("train")
        if self.generate.source in ("nothing", "model"):
            splits.add("unlabelled")
        return frozenset(splits)

    @property
    def answering_system_prompt(self) -> str:
        """System message before the prompts that `generate` asks: of the teacher, or the champion."""
        teacher = self.generate.teacher
        return self.model.system_prompt if teacher is None else teacher.system_prompt

    @property
    def digest(self) -> str:
        """SHA-256 of the resolved recipe."""
        return digest_of(self.model_dump(mode="json"))

    @property
    def run_id(self) -> str:
        """Name of the run: the same recipe is the same run, so it continues where it was."""
        return f"{self.name}-{self.digest[:10]}"


def _texts(value: JsonValue, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted path and the text of every string in a JSON value."""
    match value:
        case str():
            yield path, value
        case dict():
            for key, inner in value.items():
                yield from _texts(inner, f"{path}.{key}".lstrip("."))
        case list():
            for index, inner in enumerate(value):
                yield from _texts(inner, f"{path}.{index}")
