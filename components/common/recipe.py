"""What the user writes: one YAML file, checked before anything runs.

Each section is one frozen model; an unknown key is an error that names the nearest key. The
resolved recipe is stored with the run, and its digest names the run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from components.common.records import digest_of

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class Section(BaseModel):
    """Base of every section: immutable, no unknown keys, field docstrings become the schema's
    descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Scratch(Section):
    """A model made from nothing, for `source: scratch`."""

    architecture: Literal["llama", "llama-nope", "gpt2", "lstm"] = "llama-nope"
    """llama-style decoder, the same without position encoding (2305.19466), GPT-2, or an LSTM
    (which has no heads and no intermediate layer)."""
    hidden_size: Positive = 64
    num_layers: Positive = 3
    num_heads: Positive = 4
    intermediate_size: Positive = 256
    max_length: Positive = 256
    """Longest sequence in tokens."""
    tokenizer: Literal["character", "byte"] = "character"
    alphabet: str = "0123456789+*-=() "
    """Characters the `character` tokenizer knows; anything else becomes <unk>."""


class ModelSection(Section):
    """The base model every comparison starts from."""

    source: str = "scratch"
    """`scratch`, or a URI: file://dir, s3://bucket/prefix, hf://org/name@revision, a .gguf file by
    file:// or package://module/file.gguf (a file inside an installed Python package)."""
    scratch: Scratch = Scratch()
    system_prompt: str = ""
    """System message of the chat template; empty: none is sent where the template allows it."""


class DataSource(Section):
    """A JSONL, Parquet or text file that people made."""

    uri: str
    """file://, s3://, hf://datasets/org/name@revision/file, or package://module/file."""
    split: Literal[
        "auto",
        "train",
        "heldout",
        "unlabelled",
        "validation",
        "test",
        "vault",
        "audit",
        "retention",
    ] = "auto"
    """The split all its rows go to; `auto` divides them by `data.fractions`, by hash of the prompt.
    """
    limit: Positive | None = None
    """Read at most this many usable rows."""
    prompt_field: str = "prompt"
    completion_field: str = "completion"
    verifier: Literal["exact", "numeric", "math", "choice", "regex"] = "exact"
    """How answers to these rows' prompts are judged against their completion."""


class Ladder(Section):
    """A difficulty ladder over the length of a built-in task (2502.01612)."""

    labelled: tuple[Positive, Positive] = (1, 8)
    """Shortest and longest problem with a human label."""
    climb: tuple[Positive, Positive] = (9, 12)
    """First and last length the model teaches itself."""
    mastery: Share = 0.97
    """Validation accuracy at the newest length before going one further."""

    @model_validator(mode="after")
    def _ordered(self) -> Ladder:
        if not self.labelled[0] <= self.labelled[1] < self.climb[0] <= self.climb[1]:
            raise ValueError(
                "labelled and climb must be [shortest, longest] and climb must begin beyond labelled"
            )
        return self


class TaskSource(Section):
    """A procedural task: questions made by a program, answers judged by its own checker."""

    task: str
    """`reverse`, `copy`, `addition`, or `reasoning_gym/<name>`."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Settings of the reasoning-gym data set. Whole numbers are ints here: pipeline parameters turn
    4 into 4.0."""
    labelled: Annotated[int, Field(ge=0)] = 200
    """Rows whose answer may be trained on."""
    heldout: Annotated[int, Field(ge=0)] = 64
    """Labelled rows kept apart for early stopping."""
    unlabelled: Positive = 1000
    """Prompts without answers for self-training (per length on a ladder)."""
    validation: Positive = 200
    test: Positive = 200
    vault: Annotated[int, Field(ge=0)] = 0
    """Prompts that no round sees: `publish` measures the published model on them, once."""
    audit: Annotated[int, Field(ge=0)] = 0
    """Prompts whose answers tell how good the filters of `select` are (per climbing length on a
    ladder); each round answers them too and trains on none of it. 200 and more tell something."""
    ladder: Ladder | None = None

    @field_validator("config", mode="after")
    @classmethod
    def _whole_numbers(cls, config: dict[str, Any]) -> dict[str, Any]:
        return {name: _whole(value) for name, value in config.items()}

    @model_validator(mode="after")
    def _known(self) -> TaskSource:
        builtin = ("reverse", "copy", "addition")
        if self.task in builtin:
            if self.ladder is None:
                raise ValueError(
                    f"task {self.task} needs a `ladder` section (the lengths to label and to climb)"
                )
        elif not self.task.startswith("reasoning_gym/"):
            raise ValueError(
                f"unknown task {self.task!r}: use one of {', '.join(builtin)} or reasoning_gym/<name>"
            )
        elif self.ladder is not None:
            raise ValueError(
                "`ladder` is for built-in tasks; set a reasoning-gym task's difficulty in `config`"
            )
        return self


class Fractions(Section):
    """How rows of `split: auto` sources are divided."""

    train: Share = 0.7
    heldout: Share = 0.1
    validation: Share = 0.1
    test: Share = 0.1

    @model_validator(mode="after")
    def _sum(self) -> Fractions:
        if abs(self.train + self.heldout + self.validation + self.test - 1.0) > 1e-6:
            raise ValueError("train + heldout + validation + test must be 1")
        return self


class DataSection(Section):
    """Human data and procedural tasks; splits are disjoint by prompt and checked."""

    human: tuple[DataSource, ...] = ()
    tasks: tuple[TaskSource, ...] = ()
    fractions: Fractions = Fractions()

    @model_validator(mode="after")
    def _something(self) -> DataSection:
        if not self.human and not self.tasks:
            raise ValueError("give at least one source in `human` or `tasks`")
        return self


class Endpoint(Section):
    """Someone else's model, at an endpoint that speaks OpenAI's API, to answer instead of the
    champion. Where it is and its key come from the environment: OPENAI_BASE_URL and OPENAI_API_KEY.
    """

    model: str
    """The model's name there."""
    concurrency: Positive = 8
    """Requests under way at once."""
    timeout_seconds: Annotated[float, Field(gt=0.0)] = 120.0
    """How long one request may take."""
    max_retries: Annotated[int, Field(ge=0)] = 6
    """After a refusal that may pass (429, 5xx, no connection), with growing pauses, or those the
    server asks for."""


class Hints(Section):
    """A second try, with the answer as a hint, at prompts that no sample answered right
    (rationalization, STaR, 2203.14465). The model then writes the way to a known answer; what it
    writes must pass the verifier and every other filter, and is trained on as an answer to the
    prompt without the hint. Hinted answers are counted apart, and count for no vote, pass rate or
    audit. It teaches reasoning only where answers hold some: where an answer is a single word, its
    hint is its label."""

    template: str = "{prompt}\n(Hint for a derivation: it comes to {answer}.)"
    """What the model sees, with `{prompt}` and `{answer}` in it. An answer that repeats the
    template's own words is dropped, so choose words that no answer needs."""
    prompts_per_round: Positive = 200
    """At most so many, besides the round's other prompts: those least often hinted in vain, then
    the newest."""
    samples_per_prompt: Positive | None = None
    """None: as many as without a hint."""

    @field_validator("template", mode="after")
    @classmethod
    def _holds_both(cls, template: str) -> str:
        for name in ("{prompt}", "{answer}"):
            if template.count(name) != 1:
                raise ValueError(f"must hold {name} once: what the model sees is made of it")
        return template


class GenerateSection(Section):
    """Sampling from the champion."""

    engine: Literal["auto", "transformers", "vllm", "openai"] = "auto"
    """What samples; auto: vllm for larger models where it is installed, else transformers."""
    endpoint: Endpoint | None = None
    """For `engine: openai`. top_k is not part of that API and is not sent."""
    prompts_per_round: Positive = 1000
    samples_per_prompt: Positive = 4
    shards: Positive = 2
    """Tasks that sample side by side; the samples do not depend on it."""
    temperature: Annotated[float, Field(ge=0.0, le=5.0)] = 0.7
    """0 is greedy."""
    top_k: Annotated[int, Field(ge=0)] = 50
    """0: the whole vocabulary."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_new_tokens: Positive = 64
    batch_size: Positive = 128
    """Rows sampled together."""
    hints: Hints | None = None
    """None: a prompt that is never answered right is not tried in another way."""

    @model_validator(mode="after")
    def _shards(self) -> GenerateSection:
        if self.shards > self.prompts_per_round:
            raise ValueError(
                f"shards ({self.shards}) > prompts_per_round ({self.prompts_per_round}): lower shards"
            )
        if (self.engine == "openai") != (self.endpoint is not None):
            raise ValueError(
                "engine: openai and an `endpoint` with its `model` belong together: give both or neither"
            )
        return self


class JudgeScorer(Section):
    """A language model that grades answers, at an endpoint that speaks OpenAI's API. Where it is
    and its key come from the environment: RATCHET_JUDGE_URL and RATCHET_JUDGE_KEY."""

    model: str
    rubric: str = (
        "10: correct, complete and clear. 5: partly right. 0: wrong, empty, or off the question."
    )
    """What the grades mean; the judge answers with one whole number from 0 to 10 and nothing else.
    """
    min_score: Annotated[int, Field(ge=0, le=10)] = 8
    concurrency: Positive = 8
    """Requests under way at once."""


class RewardScorer(Section):
    """A reward model: a sequence classifier with one output."""

    source: str
    """file://dir or s3://bucket/prefix of a checkpoint with safetensors weights and its tokenizer.
    """
    min_score: float = 0.0
    batch_size: Positive = 32


class LikelihoodBand(Section):
    """Perplexity per token within which an answer teaches: [lowest, highest], or none."""

    champion: tuple[float, float] | None = None
    """Under the model that wrote it."""
    base: tuple[float, float] | None = None
    """Under the model the campaign began from."""
    ratio: tuple[float, float] | None = None
    """Champion over base: far below 1, the champion has drifted from it."""


class DifficultyBand(Section):
    """Prompts the model sometimes gets right, weighted by p(1-p) of its pass rate p (2504.03380,
    2503.14476)."""

    replay: Share = 0.05
    """Share of the solved prompts (p = 1) that stay, so that they are not forgotten."""


class DiversityChoice(Section):
    """A choice of rows that are unlike each other, over hashed TF-IDF vectors."""

    method: Literal["clusters", "k-centre", "top-score", "random"] = "clusters"
    """clusters: from each in turn; k-centre: the row farthest from all chosen (1708.00489);
    top-score: the highest score, else vote share; random: the baseline."""
    rows: Positive
    """How many accepted rows stay."""
    clusters: Positive = 64


class InfluenceChoice(Section):
    """Keep rows whose gradient lowers the loss on held-out human rows (1803.09050)."""

    validation_rows: Positive = 1024
    """Held-out human rows at most (never those the gate is judged on): the more, the surer."""
    batch_size: Positive = 32


class SelectSection(Section):
    """Which samples may teach, and how they are mixed with human rows. Everything that is none or 0
    is off."""

    contamination: Literal["exact", "overlap"] = "exact"
    """How a sample is compared with the evaluation splits: equal prompts alone, or also shared runs
    of 13 words and near-equal prompts. `overlap` is right for text that people wrote, not for
    puzzles made from one template."""
    verifier: bool = True
    """Keep only what the prompt's verifier accepts. False: label-free, by agreement alone."""
    verifier_function: Annotated[str, Field(pattern=r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)+)?$")] = ""
    """Dotted name of a Python function (prompt, answer, reference) -> bool that must accept too. It
    is code of yours that runs in the step: nothing but the recipe can name it."""
    judge: JudgeScorer | None = None
    reward: RewardScorer | None = None
    min_vote_share: Share = 0.0
    """Self-consistency: keep a prompt's majority answer if at least this share of its samples agree
    (2210.11610)."""
    calibrate_vote: bool = False
    """Raise that to the smallest share whose majorities are right on the audit split with a lower
    95 % bound of 0.9."""
    min_length_ratio: Annotated[float, Field(ge=0.0)] = 0.0
    """Drop answers shorter than this multiple of the median answer length of their slice."""
    max_length_ratio: Annotated[float, Field(gt=0.0)] = 4.0
    require_finished: bool = True
    """Drop answers that were cut off."""
    likelihood: LikelihoodBand | None = None
    difficulty: DifficultyBand | None = None
    minhash_threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    """Jaccard similarity (5-gram shingles of prompt + answer) from which the later of two rows is a
    duplicate; at 1 only equal rows are."""
    distinct_paths: bool = False
    """Keep one answer for each list of equations a prompt is solved by (2308.01825)."""
    max_per_prompt: Positive = 10
    """At most this many kept answers per prompt (2312.06585)."""
    influence: InfluenceChoice | None = None
    diversity: DiversityChoice | None = None
    human_share: Annotated[float, Field(ge=0.25, le=1.0)] = 0.5
    """Share of drawn rows that are human; never below 0.25 (2502.18049)."""
    newest_share: Share = 0.5
    """Of the self-made share, how much comes from the newest round (2502.01612)."""
    min_accepted: Positive = 16
    """Fewer accepted new rows than this fail the round."""
    unsafe_replace: bool = False
    """Drop earlier rounds' samples and human rows. Leads to collapse (2305.17493); for experiments
    only."""

    @model_validator(mode="after")
    def _fits_together(self) -> SelectSection:
        if self.difficulty is not None and not self.verifier:
            raise ValueError(
                "difficulty needs `verifier: true`: the pass rate is what the verifier accepts"
            )
        return self


class Stage(Section):
    """Length of one training stage."""

    steps: Annotated[int, Field(ge=0)] = 200
    """Optimizer steps at most; early stopping may end it sooner."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3


class LoraStructure(Section):
    """What is trained while the rest of the base stays frozen: low-rank adapters B·A beside linear
    modules (2106.09685) and, if asked for, some modules in full. Part of the plan: reflection may
    make it larger."""

    rank: Positive = 8
    """Rows of A, columns of B."""
    scale: Annotated[float, Field(gt=0.0)] = 2.0
    """B·A is multiplied by it: alpha / rank in other words, given as a ratio so that it stays when
    the rank grows."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Linear modules by the end of their name (`q_proj`, `mlp.c_proj`); `all-linear`: every one but
    the head, or the head where it is the only one. A head tied to the embedding takes no adapter.
    """
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Of the adapters' input."""
    unfrozen_layers: Annotated[int, Field(ge=0)] = 0
    """The last n decoder layers are trained in full (all, if there are fewer); they take no
    adapter."""
    unfrozen_modules: tuple[str, ...] = ()
    """More modules to train in full, by the end of their name; `norms`: every normalisation."""

    def __str__(self) -> str:
        layers = f", unfrozen layers {self.unfrozen_layers}" if self.unfrozen_layers else ""
        return f"rank {self.rank}{layers}"


class LoraSection(LoraStructure):
    """Parameter-efficient fine-tuning: the first structure, and how far reflection may make it
    larger."""

    max_rank: Positive = 64
    max_unfrozen_layers: Annotated[int, Field(ge=0)] = 2

    @model_validator(mode="after")
    def _bounds(self) -> LoraSection:
        if self.rank > self.max_rank:
            raise ValueError(f"rank ({self.rank}) > max_rank ({self.max_rank}): raise max_rank")
        if self.unfrozen_layers > self.max_unfrozen_layers:
            raise ValueError(
                f"unfrozen_layers ({self.unfrozen_layers}) > max_unfrozen_layers ({self.max_unfrozen_layers}): raise "
                "max_unfrozen_layers"
            )
        return self

    @property
    def structure(self) -> LoraStructure:
        """The structure of the first round."""
        return LoraStructure(**{name: getattr(self, name) for name in LoraStructure.model_fields})


class TrainSection(Section):
    """Fine-tuning by DeepSpeed."""

    pretrain: Stage | None = None
    """Before `first`: next-token prediction on raw text (human rows without a prompt)."""
    first: Stage = Stage(steps=500)
    """The supervised stage on human rows (round 0); of 0 steps: `pretrain` alone."""
    rounds: Stage = Stage(steps=200)
    """Each self-improvement round."""
    init_from: Literal["base", "champion"] = "champion"
    """Start each round from the base model (2312.06585) or go on from the champion (2502.01612)."""
    batch_size: Positive = 32
    """Rows per optimizer step, over all processes."""
    max_length: Positive = 512
    """Longer rows with a prompt are rejected, never cut; raw text is split."""
    lora: LoraSection | None = None
    """None: full fine-tuning. Else the base stays frozen for the whole campaign, and adapters
    beside it are trained."""
    num_peers: Positive = 1
    """Independently seeded models trained side by side, each going on from its own predecessor.
    Sample i of a prompt comes from peer i mod num_peers, so agreement is a cross-seed vote
    (2502.01612). Peer 0 is the model."""
    precision: Literal["auto", "fp32", "bf16", "autocast"] = "auto"
    """bf16: DeepSpeed's own, with fp32 master weights; autocast: fp32 weights, bf16 matrix
    products; auto: bf16 on a GPU that has it, autocast on a CPU that has it for models of 20
    million parameters or more, else fp32."""
    warmup_share: Share = 0.05
    schedule: Literal["constant", "cosine"] = "cosine"
    min_learning_rate_ratio: Share = 0.1
    """Where the cosine ends, as a share of the learning rate."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    beta2: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.98
    max_gradient_norm: Annotated[float, Field(gt=0.0)] = 1.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """In training, wherever the architecture has dropout."""
    neftune_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    """Noise on input embeddings (2310.05914); 5 is usual, 0 is none."""
    kl_beta: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the divergence from the base model in the loss; 0.01 to 0.1 are usual."""
    interpolate: bool = False
    """Keep (1-a)·base + a·trained with the a of 0.25, 0.5, 0.75, 1 that has the lowest held-out
    loss (2109.01903)."""
    weighting: Literal["sampling", "loss"] = "sampling"
    """What a row's weight means: how often it is drawn, or how much its tokens count in the loss.
    """
    group_by_length: bool = True
    """Batches of rows of similar length: little padding."""
    packing: bool = False
    """Rows of a micro-batch behind each other in sequences of max_length, kept apart: no padding at
    all."""
    evaluate_every: Positive = 50
    """Steps between looks at the held-out loss."""
    early_stopping_patience: Positive = 5
    """Looks without a lower held-out loss before training ends; the best weights are kept."""

    # How it is carried out: the loss curve does not depend on it, and neither does the address of
    # the result.
    num_nodes: Positive = 1
    """More than one: a Kubeflow TrainJob."""
    num_processes: Positive = 1
    """Processes per node (one per device on GPUs)."""
    zero: Literal["auto", 0, 1, 2, 3] = "auto"
    """DeepSpeed ZeRO stage (1910.02054); auto: the least that fits into memory."""
    offload: bool | Literal["auto"] = "auto"
    """Optimizer state (at stage 3 parameters too) in CPU memory (2101.06840); auto: if nothing else
    fits."""
    micro_batch_size: Positive | Literal["auto"] = "auto"
    """Rows per forward pass of one process; auto: as many as fit. Out of memory halves it, once."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a quarter to a third more time.
    """
    checkpoint_minutes: Annotated[float, Field(ge=0.0)] = 5.0
    """Minutes between checkpoints, from which a killed training goes on; 0: after every step."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainSection:
        processes = self.num_processes * self.num_nodes
        if self.batch_size % processes:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of the number of processes ({processes})"
            )
        if self.precision == "bf16" and self.zero == 0:
            raise ValueError(
                "precision bf16 needs zero >= 1: stage 0 keeps no fp32 master weights and drifts"
            )
        if self.offload is True and self.zero == 0:
            raise ValueError(
                "offload needs zero >= 1: stage 0 keeps the optimizer's state with the weights"
            )
        if self.rounds.steps == 0 or (self.pretrain is not None and self.pretrain.steps == 0):
            raise ValueError("only `first` may have 0 steps")
        if self.first.steps == 0 and self.pretrain is None:
            raise ValueError(
                "first.steps is 0 and there is no `pretrain`: round 0 has to train something"
            )
        if self.num_nodes > 1 and self.num_peers > 1:
            raise ValueError(
                "num_peers > 1 needs num_nodes 1: peers are trained side by side on one node"
            )
        return self


HOW_TO_TRAIN = (
    "num_nodes",
    "num_processes",
    "zero",
    "offload",
    "micro_batch_size",
    "activation_checkpointing",
    "checkpoint_minutes",
)
"""Fields of TrainSection that change how training is carried out and not what comes out."""


class Harness(Section):
    """Tasks of lm-eval (the language model evaluation harness), from files alone."""

    folder: str
    """file:// or package:// URI of a folder of task YAMLs and their data: `dataset_path` json, csv,
    parquet or text, `data_files` relative to the folder. Tags that run code (`!function`) are
    refused."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of tasks in that folder."""
    limit: Positive | None = None
    """Questions of each task; None: all."""


class EvaluateSection(Section):
    """How a model is measured; greedy accuracy always, pass@k on demand."""

    pass_k: Annotated[int, Field(ge=0)] = 0
    """k of pass@k on the test split (2107.03374); 0: not measured."""
    temperature: Annotated[float, Field(gt=0.0, le=5.0)] = 0.7
    batch_size: Positive = 256
    max_perplexity_rows: Positive = 200
    """Rows of the retention (else held-out) split whose perplexity is measured."""
    diversity_rows: Positive = 1024
    """Answers whose diversity is measured: the same prompts, chosen by their ids, for every model.
    Self-BLEU and Vendi score, which compare every answer with every other, take the first 48 and
    256 of them."""
    harness: Harness | None = None
    """None: lm-eval is not run."""


class Goal(Section):
    """When the campaign has reached its end."""

    threshold: Share
    """Validation accuracy to reach."""
    slice: str = ""
    """`tag=value`, for example `length=12`; empty: all validation prompts."""


class Budget(Section):
    """What a campaign may cost; the round that crosses it is the last."""

    minutes: Annotated[float, Field(gt=0)] | None = None
    """Sum of the seconds of all finished tasks."""
    tokens: Positive | None = None
    """Tokens generated and trained on, all rounds."""


class DecideSection(Section):
    """When a candidate is kept and when the campaign stops."""

    goal: Goal
    max_rounds: Positive = 4
    patience: Positive = 2
    """Stop after this many rounds in a row without a promotion."""
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """False promotions allowed per campaign. Each round may spend alpha / max_rounds, and what the
    promotions just before it left unspent (1910.04900)."""
    score: Literal["right", "error"] = "right"
    """What champion and candidate are compared by, prompt by prompt: right or wrong, or the
    absolute error of numeric answers."""
    family: str = ""
    """Tag whose values are families of validation prompts that resemble each other (a template, a
    topic), so that their results are not independent; empty: every prompt stands alone."""
    max_perplexity_ratio: Annotated[float, Field(ge=1.0)] = 1.10
    """Perplexity on human text against round 0 above which a candidate is refused."""
    retention_margin: Annotated[float, Field(ge=0.0)] = 0.01
    """What a candidate may lose on the retention split: its token accuracy minus the champion's
    must be above minus this with 95 % confidence."""
    budget: Budget = Budget()


class PublishSection(Section):
    """Where the best model goes."""

    name: Name = "ratchet-model"


class Recipe(Section):
    """A whole campaign."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    model: ModelSection = ModelSection()
    data: DataSection
    generate: GenerateSection = GenerateSection()
    select: SelectSection = SelectSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    decide: DecideSection
    publish: PublishSection = PublishSection()

    @model_validator(mode="after")
    def _peers(self) -> Recipe:
        if self.generate.samples_per_prompt < self.train.num_peers:
            raise ValueError(
                f"generate.samples_per_prompt ({self.generate.samples_per_prompt}) must be at least train.num_peers "
                f"({self.train.num_peers}): every peer answers every prompt"
            )
        return self

    @model_validator(mode="after")
    def _hints(self) -> Recipe:
        if self.generate.hints is not None and not self.select.verifier:
            raise ValueError(
                "generate.hints needs `select.verifier: true`: prompts are too hard where it accepts no answer"
            )
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the resolved recipe."""
        return digest_of(self.model_dump(mode="json"))

    @property
    def run_id(self) -> str:
        """Name of the run: the same recipe is the same run, so it continues where it was."""
        return f"{self.name}-{self.digest[:10]}"


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
