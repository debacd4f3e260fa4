"""The recipe's section `generate`: sampling from the champion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from components.contracts.recipe.endpoint import ChatEndpoint
from components.contracts.recipe.section import Positive, Section

EngineName = Literal["transformers", "vllm", "openai"]
"""Engines that can sample; `components.generate.engines` has a module for each."""


class Endpoint(ChatEndpoint):
    """Someone else's model, which answers instead of the champion.

    It is at an endpoint that speaks OpenAI's API. Its URL and key come from the environment:
    OPENAI_BASE_URL and OPENAI_API_KEY. A prompt that it refuses (content policy, context length) is
    set aside with its words.
    """


class Hints(Section):
    """A second try, with the answer as a hint, at prompts that no sample answered right.

    This is the rationalization of STaR (2203.14465): the model writes the way to a known answer. An
    answer must pass the verifier and every other filter, and is trained on as an answer to the
    prompt without the hint. Hinted answers are counted apart, and count for no vote, pass rate or
    audit. It teaches reasoning only where answers hold some: where an answer is a single word, its
    hint is its label.
    """

    template: str = "{prompt}\n(Hint for a derivation: it comes to {answer}.)"
    """Text that the model sees, with `{prompt}` and `{answer}` in it. An answer that repeats the
    template's own words is dropped, so choose words that no answer needs."""
    prompts_per_round: Positive = 200
    """At most so many, besides the round's other prompts: those least often hinted in vain, then
    the newest."""
    samples_per_prompt: Positive | None = None
    """None: as many as without a hint."""

    @field_validator("template", mode="after")
    @classmethod
    def _holds_both(cls, template: str) -> str:
        # Not str.format: a template may hold other braces, as LaTeX does.
        for name in ("{prompt}", "{answer}"):
            if template.count(name) != 1:
                raise ValueError(
                    f"must hold {name} once: what the model sees is made of it"
                )
        return template


class Teacher(Section):
    """A model that answers instead of the champion (distillation, 1606.07947, 2212.10071).

    The champion learns from the text of its answers, so the two may have other tokenizers and
    architectures. `prepare` looks at it as it does at the base: it is whole, or refused.
    """

    source: str
    """As `model.source`, but for `scratch`."""
    system_prompt: str = ""
    """System message before the teacher's prompts; `model.system_prompt` is the champion's."""

    @field_validator("source", mode="after")
    @classmethod
    def _is_there(cls, source: str) -> str:
        if source == "scratch":
            raise ValueError(
                "a model from scratch has nothing to teach: name one that was trained"
            )
        return source


class OwnPrompts(Section):
    """Prompts that the model writes itself, for `from: model`.

    `prompts_per_round` are tried. One that is empty or cut off, repeats a prompt of the data or
    another of the round, or belongs to an evaluation split is not asked. No right answer is known:
    `select` keeps an answer by agreement, a judge, a reward model or a function of yours.
    """

    form: Literal["examples", "turn"] = "examples"
    """`examples`: some prompts of the train and unlabelled splits are shown and a new one is asked
    for (2212.10560). `turn`: the chat template's turn of a user is opened, and the model goes on as
    the user (2406.08464); no data is needed."""
    shown: Positive = 4
    """`examples`: prompts that are shown, drawn anew for each try."""
    instruction: str = (
        "Each of these questions is of one kind. Write the next one, another one."
    )
    """`examples`: what stands before them."""
    verifier: str = "exact"
    """Verifier that tells which answers agree: `exact`, `numeric`, `math` or `choice`."""
    temperature: Annotated[float, Field(gt=0.0, le=5.0)] = 1.0
    """Of the prompts; answers have that of `generate`."""
    max_new_tokens: Positive = 64
    """Longest prompt."""
    max_similarity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    """Jaccard similarity (shingles of 5 characters) from which the later of two prompts with the
    same numbers is a repetition; at 1 only equal ones are."""

    @field_validator("verifier", mode="after")
    @classmethod
    def _needs_no_reference(cls, verifier: str) -> str:
        if verifier not in ("exact", "numeric", "math", "choice"):
            raise ValueError(
                "use exact, numeric, math or choice: others need data of the prompt"
            )
        return verifier


class Vllm(Section):
    """Settings of vLLM, for `engine: vllm` or where `auto` takes it."""

    tensor_parallel_size: Positive | None = None
    """GPUs that share one model. null: as few of the step's GPUs (a profile's `gpus`) as the
    weights need."""
    max_model_len: Positive | None = None
    """Longest prompt with its answer, in tokens. null: what the model has positions for; a model
    of long contexts may need a lower one, as keys and values of that many tokens must fit."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """Share of a GPU's memory for weights, keys and values."""
    quantization: str | None = None
    """Method by which the weights are quantised as they are loaded, such as `fp8` or
    `bitsandbytes`, for sampling alone. null: the type of the checkpoint."""
    enable_prefix_caching: bool = True
    """Samples of a prompt share its keys and values."""


class GenerateSection(Section):
    """Sampling from the champion."""

    engine: Literal["auto", EngineName] = "auto"
    """Engine that samples; auto: vllm for larger models where it is installed, else
    transformers."""
    vllm: Vllm = Vllm()
    endpoint: Endpoint | None = None
    """For `engine: openai`. top_k is not part of that API and is not sent."""
    teacher: Teacher | None = None
    """None: the champion answers."""
    source: Annotated[
        Literal["prompts", "text", "nothing", "model"], Field(alias="from")
    ] = "prompts"
    """What the model goes on from: `prompts` of the unlabelled split (where the data is raw text
    alone, the beginnings of its blocks); `text`, the beginnings of the raw text that is taught;
    `nothing`, the token before a text: it writes freely; `model`, prompts that it writes itself
    (`own_prompts`). No verifier can check the latter three, so they need `select.verifier: false`."""
    own_prompts: OwnPrompts = OwnPrompts()
    prompts_per_round: Positive = 1000
    samples_per_prompt: Positive = 4
    # kfp.local runs two tasks side by side at most. On a cluster two shards cost five more pods a
    # round than one, and half a minute.
    shards: Positive = 1
    """Tasks that sample side by side; the samples do not depend on it."""
    # Greedy answers to one prompt are all the same, and no vote can be counted.
    temperature: Annotated[float, Field(ge=0.0, le=5.0)] = 0.7
    """0 is greedy."""
    # Drawing from a whole vocabulary of 49,152 tokens cost 28 % of the time of sampling.
    top_k: Annotated[int, Field(ge=0)] = 50
    """0: the whole vocabulary."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    # What is cut off is dropped by default, and counted.
    max_new_tokens: Positive = 64
    batch_size: Positive = 128
    """Rows sampled together."""
    hints: Hints | None = None
    """None: a prompt that is never answered right is not tried in another way."""

    @model_validator(mode="after")
    def _shards(self) -> GenerateSection:
        if self.shards > self.prompts_per_round:
            raise ValueError(
                f"shards ({self.shards}) > prompts_per_round ({self.prompts_per_round}): lower "
                "shards"
            )
        if self.source == "model" and self.shards > 1:
            raise ValueError(
                "`from: model` needs shards 1: the prompts of a round are compared with each other"
            )
        if self.source != "model" and self.own_prompts != OwnPrompts():
            raise ValueError("`own_prompts` is for `from: model`")
        if self.engine not in ("auto", "vllm") and self.vllm != Vllm():
            raise ValueError(
                f"`vllm` is for engine: vllm or auto, and the engine is {self.engine}"
            )
        if (self.engine == "openai") != (self.endpoint is not None):
            raise ValueError(
                "engine: openai and an `endpoint` with its `model` belong together: give both or "
                "neither"
            )
        if self.teacher is not None and self.endpoint is not None:
            raise ValueError(
                "`teacher` and `endpoint` both answer instead of the champion: leave out one of them"
            )
        return self
