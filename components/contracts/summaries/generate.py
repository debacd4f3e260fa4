"""Summary of one shard of samples."""

from __future__ import annotations

from typing import ClassVar

from components.contracts.summaries.summary import Part, Summary


class SampleCounts(Part):
    """Counts over some samples."""

    prompts: int
    generated: int
    """Samples."""
    tokens: int
    """Tokens of all samples."""
    # A wrong stop token or template shows here first: answers run on until they are cut off.
    finished_share: float
    """Share of the answers that the model itself ended, 0 to 1; 0 without answers."""
    truncated: int
    """Samples that `max_new_tokens` cut off."""
    no_answer: int = 0
    """Samples without an answer: the endpoint refused the prompt, or only thought about it."""
    distinct_answers: int
    """Pairs of prompt and text that differ."""


class WrittenPrompts(Part):
    """Counts of prompts that the model wrote itself."""

    tried: int
    asked: int
    dropped: dict[str, int]
    """Reason → prompts that are not asked."""


class VllmSizing(Part):
    """Sizes by which vLLM was started."""

    weights_gib: float
    """Weights as they are loaded, before `quantization`."""
    num_gpus: int
    """GPUs that the step has; 0: it runs on CPUs."""
    gpu_gib: float
    """Memory of the smallest of them."""
    tensor_parallel_size: int
    """Devices that share the model."""
    max_model_len: int | None
    """None: what the model has positions for."""
    gpu_memory_utilization: float
    quantization: str | None


class EngineFacts(Part):
    """Facts that an engine tells about prompts and the ends of answers."""

    # Recorded, because a wrong one spoils every sample without any error.
    stop_tokens: tuple[int, ...] | None = None
    """Ids of the tokens that end an answer; None where an endpoint decides."""
    chat_template: str | None = None
    """First 16 hex digits of SHA-256 over the chat template; None without one."""
    model: str | None = None
    """The model's name at an endpoint; None for a checkpoint."""
    sizing: VllmSizing | None = None
    """None for another engine than vLLM."""


class GenerateSummary(Summary, SampleCounts, EngineFacts):
    """The samples of one shard without hints, and the engine and settings that drew them."""

    written_by: ClassVar[tuple[str, ...]] = ("generate",)
    round: int
    shard: int
    """0 … shards - 1."""
    shards: int
    temperature: float
    level: int
    """Length of the prompts on a ladder; 0 without one."""
    champion: str
    """Ref of the receipt that was sampled from; empty where a teacher answered."""
    teacher: str = ""
    """Ref of the teacher's receipt; empty where the champion answered."""
    engine: str
    """`transformers`, `vllm` or `openai`."""
    engine_reason: str
    """Reason for this engine."""
    batches: int
    """Batches of this shard, without those of hinted prompts."""
    batch_size: int
    """Samples a batch, as the recipe says."""
    # Apart from the others: with the answer in sight, samples say nothing about the model.
    hinted: SampleCounts | None = None
    """The same of samples with a hint; None if the recipe asks for none."""
    written: WrittenPrompts | None = None
    """None where the prompts come from the data."""
