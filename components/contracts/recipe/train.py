"""The recipe's section `train`: fine-tuning, and the processes that carry it out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.contracts.recipe.augmentation import Augmentation
from components.contracts.recipe.section import Positive, Section, Share


class Stage(Section):
    """Length of one training stage."""

    steps: Annotated[int, Field(ge=0)] = 200
    """Optimizer steps at most; early stopping may end it sooner."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    augmentation: Augmentation | None = None
    """Noise on the rows, drawn anew each time; null: none. In `rounds` any, be it empty (`{}`),
    lets reflection turn word dropout on against overfitting."""


class LoraStructure(Section):
    """The trained part of a model whose base stays frozen.

    Low-rank adapters B·A beside linear modules (2106.09685) and, if asked for, some modules in
    full. Part of the plan: reflection may make it larger.
    """

    rank: Positive = 8
    """Rows of A, columns of B."""
    scale: Annotated[float, Field(gt=0.0)] = 2.0
    """B·A is multiplied by it: alpha / rank in other words, given as a ratio so that it stays when
    the rank grows."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"] = (
        "all-linear"
    )
    """Linear modules by the end of their name (`q_proj`, `mlp.c_proj`); `all-linear`: every one but
    the head, or the head where it is the only one. A head tied to the embedding takes no
    adapter."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout of the adapters' input."""
    unfrozen_layers: Annotated[int, Field(ge=0)] = 0
    """The last n decoder layers are trained in full (all, if there are fewer); they take no
    adapter."""
    unfrozen_modules: tuple[str, ...] = ()
    """More modules to train in full, by the end of their name; `norms`: every normalisation."""

    @property
    def unfrozen(self) -> bool:
        """Some modules are trained in full."""
        return self.unfrozen_layers > 0 or bool(self.unfrozen_modules)

    def __str__(self) -> str:
        layers = (
            f", unfrozen layers {self.unfrozen_layers}" if self.unfrozen_layers else ""
        )
        return f"rank {self.rank}{layers}"


class LoraSection(LoraStructure):
    """Parameter-efficient fine-tuning: the first structure, and bounds of how it may grow."""

    max_rank: Positive = 64
    max_unfrozen_layers: Annotated[int, Field(ge=0)] = 2

    @model_validator(mode="after")
    def _bounds(self) -> LoraSection:
        if self.rank > self.max_rank:
            raise ValueError(
                f"rank ({self.rank}) > max_rank ({self.max_rank}): raise max_rank"
            )
        if self.unfrozen_layers > self.max_unfrozen_layers:
            raise ValueError(
                f"unfrozen_layers ({self.unfrozen_layers}) > max_unfrozen_layers "
                f"({self.max_unfrozen_layers}): raise max_unfrozen_layers"
            )
        return self

    @property
    def structure(self) -> LoraStructure:
        """The structure of the first round."""
        fields = LoraStructure.model_fields
        return LoraStructure(**{name: getattr(self, name) for name in fields})


# As many as the deepest published models have in all (Llama 3.1 405B: 126). A number with a digit
# too many would end a machine.
MOST_EXTRA_LAYERS = 128
"""Decoder layers that any recipe may insert or take out."""


class LayerStructure(Section):
    """Depth of the model, and the layers that full fine-tuning trains.

    Part of the plan: reflection may change it, within the bounds of the recipe.
    """

    extra: Annotated[int, Field(ge=-MOST_EXTRA_LAYERS, le=MOST_EXTRA_LAYERS)] = 0
    """Decoder layers more than the base has. Above 0: copies of layers, spread evenly, whose output
    projections begin at zero, so that the model computes what it did (2401.02415). Below 0: those
    that change the hidden states of training rows least are taken out (2403.03853). No more than
    the base has, and one has to stay."""
    trained: Literal["all", "inserted"] | Positive = "all"
    """`all`: the whole model; n: the last n decoder layers (all of them, if there are fewer);
    `inserted`: the layers that `extra` has added. Whatever else there is stays frozen."""

    def __str__(self) -> str:
        trained = (
            f"last {self.trained}" if isinstance(self.trained, int) else self.trained
        )
        return (
            f"{self.extra:+d}, {trained} trained"
            if self.extra
            else f"0, {trained} trained"
        )


class LayersSection(LayerStructure):
    """The first depth and the first trained layers, and bounds of how they may change."""

    min_extra: Annotated[int, Field(ge=-MOST_EXTRA_LAYERS, le=0)] = 0
    """Reflection takes out no more layers than this."""
    max_extra: Annotated[int, Field(ge=0, le=MOST_EXTRA_LAYERS)] = 0
    """Reflection inserts no more layers than this."""
    max_trained: Positive = 8
    """Most layers that reflection unfreezes, where `trained` is a number."""

    @model_validator(mode="after")
    def _bounds(self) -> LayersSection:
        # A depth that the recipe sets is within its own bounds.
        if self.trained == "inserted" and self.extra < 1:
            raise ValueError(
                f"trained: inserted needs layers to train: extra is {self.extra}, set it to 1 or "
                "more"
            )
        if isinstance(self.trained, int) and self.trained > self.max_trained:
            raise ValueError(
                f"trained ({self.trained}) > max_trained ({self.max_trained}): raise max_trained"
            )
        return self

    @property
    def structure(self) -> LayerStructure:
        """The structure of the first round."""
        return LayerStructure(extra=self.extra, trained=self.trained)

    @property
    def changes_depth(self) -> bool:
        """The depth differs from the base's, or may come to."""
        return self.extra != 0 or self.min_extra != 0 or self.max_extra != 0


class Preference(Section):
    """Learning from wrong answers too, held near a reference model."""

    reference: Literal["base", "champion"] | None = None
    """Model that answers are held near: the base, the same in all rounds, or the round's champion.
    null: the one that the training starts from (`init_from`)."""
    beta: Annotated[float, Field(gt=0.0)] = 0.1
    """Strength of the pull towards the reference model (2305.18290)."""
    nll_weight: Annotated[float, Field(gt=0.0)] = 1.0
    """`rpo`: weight of the accepted sample's own loss per token (2404.19733)."""
    # Half of what is drawn is wrong, so 1 is the published balance of both kinds.
    wrong_weight: Annotated[float, Field(gt=0.0)] = 1.0
    """`kto`: weight of a wrong answer in the loss; that of any other row is 1 (2402.01306)."""
    labelled: bool = False
    """`dpo`, `rpo`: a labelled row too stands beside the model's own answer to its prompt, if the
    round sampled it (SPIN, 2401.01335): a wrong one where something tells right from wrong, else
    any that differs. Without an unlabelled split the prompts of labelled rows are sampled."""


class TrainSection(Section):
    """Fine-tuning by DeepSpeed."""

    pretrain: Stage | None = None
    """Before `first`: next-token prediction on raw text (rows without a prompt)."""
    first: Stage = Stage(steps=500)
    """The supervised stage on labelled rows (round 0). Of 0 steps: `pretrain` alone or, without
    one, no round 0: self-improvement begins with the base."""
    rounds: Stage = Stage(steps=200)
    """Each self-improvement round."""
    method: Literal["sft", "dpo", "rpo", "kto", "raft"] = "sft"
    """Objective of the rounds. `sft`: likelihood of labelled rows and accepted samples. `dpo`: for
    prompts with accepted and wrong samples, the accepted one is to become likelier than the wrong
    one, against the reference model (2305.18290). `rpo`: `dpo` and the
    likelihood of the accepted sample (2404.19733). Rows without a wrong sample are learnt as by
    `sft`; with pairs, every row of a batch counts the same, whatever its length. `kto`: each row by
    itself is right (labelled rows, accepted samples) or wrong, and half of what is drawn are wrong
    samples, those of prompts without an accepted one too (2402.01306); without any it is `sft`. `raft`: an
    accepted sample's tokens count by how likely they are to the model in training against the
    champion that drew them, up to 1 + `clip` (2504.11343); other rows are learnt as by `sft`, and
    every row of a batch counts the same."""
    clip: Annotated[float, Field(gt=0.0, le=10.0)] = 0.2
    """`raft`: a token that is likelier by more than this share than when it was drawn teaches no
    more."""
    preference: Preference = Preference()
    # From the base suits unions of reasoning answers; ladders of difficulty need the champion.
    init_from: Literal["base", "champion"] = "champion"
    """Start each round from the base model (2312.06585) or go on from the champion (2502.01612)."""
    batch_size: Positive = 32
    """Rows per optimizer step, over all processes."""
    max_length: Positive = 512
    """Longest row in tokens; raw text is split into pieces of this size."""
    # One long row among the model's own samples, which nobody can remove, must not end a round.
    too_long: Literal["drop", "cut", "error"] = "drop"
    """Rows with a prompt that are longer: left out; cut at the end, if some of the answer is left; or
    an error. Those that are left out or cut are counted."""
    turns: Literal["all", "last"] = "all"
    """Which of the assistant's turns of a conversation bear loss."""
    lora: LoraSection | None = None
    """None: full fine-tuning. Else the base stays frozen for the whole campaign, and adapters
    beside it are trained. A champion that was trained in full stays frozen in its place, for one
    round: the adapters of each round begin at zero, and are merged into the candidate."""
    layers: LayersSection | None = None
    """Layers to insert, to take out, and to train alone. null: the base's, all trained. Not with
    `lora`, which has `unfrozen_layers`."""
    num_peers: Positive = 1
    """Independently seeded models trained side by side, each going on from its own predecessor.
    Sample i of a prompt comes from peer i mod num_peers, so agreement is a cross-seed vote
    (2502.01612). Peer 0 is the model."""
    # Master weights are fp32 in every mode: weights of bf16 hardly learn. At a learning rate of 1e-5
    # the loss of SmolLM2 fell by 0.03 in 8 steps, against 0.57 with fp32 weights.
    precision: Literal["auto", "fp32", "bf16", "autocast"] = "auto"
    """bf16: DeepSpeed's own, with fp32 master weights; autocast: fp32 weights, bf16 matrix
    products; auto: bf16 on a GPU that has it, autocast on a CPU that has it for models of 20
    million parameters or more, else fp32."""
    warmup_share: Share = 0.05
    schedule: Literal["constant", "cosine"] = "cosine"
    min_learning_rate_ratio: Share = 0.1
    """End of the cosine, as a share of the learning rate."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    # The value that small models learnt length ladders with; PyTorch's default is 0.999.
    beta2: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.98
    max_gradient_norm: Annotated[float, Field(gt=0.0)] = 1.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """In training, wherever the architecture has dropout."""
    neftune_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    """Noise on input embeddings (2310.05914); 5 is usual, 0 is none."""
    # To the fixed base, not to the last champion: small steps would add up.
    kl_beta: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the divergence from the base model in the loss; 0.01 to 0.1 are usual."""
    interpolate: bool = False
    """Keep (1-a)·base + a·trained with the a of 0.25, 0.5, 0.75, 1 that has the lowest dev loss
    (2109.01903)."""
    weighting: Literal["sampling", "loss"] = "sampling"
    """Meaning of a row's weight: how often it is drawn, or how much its tokens count in the
    loss."""
    group_by_length: bool = True
    """Batches of rows of similar length: little padding."""
    # Off, since it takes fewer, larger steps: at equal tokens the loss is not the same.
    packing: bool = False
    """Rows of a micro-batch behind each other in sequences of max_length, kept apart: no padding at
    all."""
    evaluate_every: Positive = 50
    """Steps between looks at the dev loss."""
    early_stopping_patience: Positive = 5
    """Looks without a lower dev loss before training ends; the best weights are kept."""

    # How it is carried out: the loss curve does not depend on it, and neither does the address of
    # the result.
    # Nodes wait 15 minutes for each other; a queue (Kueue) starts all of them or none.
    num_nodes: Positive = 1
    """More than one: a Kubeflow TrainJob."""
    # On CPUs more threads do not help a small model: below 1 M parameters a second thread adds
    # nothing, two processes of one thread do.
    num_processes: Positive = 1
    """Processes per node (one per device on GPUs)."""
    zero: Literal["auto", 0, 1, 2, 3] = "auto"
    """DeepSpeed ZeRO stage (1910.02054); auto: the least that fits into memory."""
    # Its optimizer is compiled at first use, 100 s, where an image does not bring it.
    offload: bool | Literal["auto"] = "auto"
    """Optimizer state (at ZeRO stage 3 parameters too) in CPU memory (2101.06840); auto: if nothing
    else fits."""
    micro_batch_size: Positive | Literal["auto"] = "auto"
    """Rows per forward pass of one process; auto: as many as fit. Out of memory halves it, once."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a quarter to a third more
    time."""
    # A pod that is told to end saves one besides; this is for those that are killed.
    checkpoint_minutes: Annotated[float, Field(ge=0.0)] = 5.0
    """Minutes between checkpoints, from which a killed training goes on; 0: after every step."""

    @model_validator(mode="after")
    def _processes_fit(self) -> TrainSection:
        num_processes = self.num_processes * self.num_nodes
        if self.batch_size % num_processes:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of the number of processes "
                f"({num_processes})"
            )
        if self.num_nodes > 1 and self.num_peers > 1:
            raise ValueError(
                "num_peers > 1 needs num_nodes 1: peers are trained side by side on one node"
            )
        return self

    @model_validator(mode="after")
    def _method_fits(self) -> TrainSection:
        if self.preference.labelled and self.method not in ("dpo", "rpo"):
            raise ValueError(
                "preference.labelled sets labelled rows beside the model's own answers: it needs "
                f"method dpo or rpo, and the method is {self.method}"
            )
        if self.method == "sft":
            return self
        if self.rounds.augmentation is not None:
            raise ValueError(
                f"method {self.method} compares the likelihoods of rows with those of another model, "
                "which saw no noise: unset rounds.augmentation, or use method sft"
            )
        if self.packing:
            raise ValueError(
                f"method {self.method} takes one row a sequence: unset packing"
            )
        if self.kl_beta:
            instead = "clip" if self.method == "raft" else "preference.beta"
            raise ValueError(
                f"method {self.method} holds the model near its start by itself: unset kl_beta, "
                f"use {instead}"
            )
        return self

    @model_validator(mode="after")
    def _layers_fit(self) -> TrainSection:
        if self.layers is None:
            return self
        if self.lora is not None:
            raise ValueError(
                "layers and lora exclude each other: adapters belong to the layers of the base; "
                "use lora.unfrozen_layers, or unset lora"
            )
        if self.interpolate and self.layers.changes_depth:
            raise ValueError(
                "interpolate mixes the weights of base and trained model layer by layer, and "
                "layers.extra, min_extra or max_extra makes their depths differ: unset one of them"
            )
        return self

    @model_validator(mode="after")
    def _zero_fits(self) -> TrainSection:
        # After ten steps the loss was 0.02 off.
        if self.precision == "bf16" and self.zero == 0:
            raise ValueError(
                "precision bf16 needs zero >= 1: ZeRO stage 0 keeps no fp32 master weights and "
                "drifts"
            )
        if self.offload is True and self.zero == 0:
            raise ValueError(
                "offload needs zero >= 1: ZeRO stage 0 keeps the optimizer's state with the weights"
            )
        return self

    @model_validator(mode="after")
    def _stages_train(self) -> TrainSection:
        if self.rounds.steps == 0 or (
            self.pretrain is not None and self.pretrain.steps == 0
        ):
            raise ValueError("only `first` may have 0 steps")
        return self

    @property
    def has_supervised_stage(self) -> bool:
        """True if round 0 has something to train."""
        return self.first.steps > 0 or self.pretrain is not None


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
