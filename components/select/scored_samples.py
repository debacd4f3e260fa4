"""Samples with their prompt, scores and votes, and the signature of a filter over them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from components.canonical import normalised_text
from components.contracts.rows import Dropped, Prompt, Sample, prompt_id
from components.errors import Corrupt
from components.verifiers import vote_keys

SampleKey = tuple[str, int]
"""(prompt id, sample index): identity of a sample within a round."""


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """A sample with its prompt, its scores and the vote of the prompt's other samples."""

    prompt: Prompt
    sample: Sample
    text: str
    """The model's answer as it would be trained on, with its white space."""
    answer: str
    """Normalised final answer; empty if the text holds none."""
    majority: str
    """The answer most samples of this prompt gave."""
    vote_share: float
    """Share of all samples of this prompt that gave the majority's answer (2210.11610)."""
    is_tied: bool
    """Another answer was given as often: the majority is then the one that was sampled first."""
    num_samples: int
    """Samples drawn for this prompt, unfinished ones too."""
    pass_rate: float | None = None
    """Share of them that the verifier accepted; None before the verifier ran."""
    weight: float = 1.0
    """Relative frequency in training, among the accepted rows of its round."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scorer → score: `judge`, `reward`, `influence`, …"""
    hinted: bool = False
    """True if the model saw the answer as a hint. Such samples of a prompt are a group of their
    own: they vote among themselves and have no pass rate."""

    @property
    def key(self) -> SampleKey:
        """Identity of the sample within its round."""
        return self.prompt.id, self.sample.index

    @property
    def is_majority(self) -> bool:
        """True if it gives the majority's answer."""
        # Where no sample of the prompt holds an answer, the majority is empty as well.
        return bool(self.answer) and self.answer == self.majority

    @property
    def slice(self) -> tuple[str, str]:
        """Task and length, where the prompt is tagged with them."""
        tags = self.prompt.tags
        return tags.get("task", ""), tags.get("length", "")


Block = Sequence[ScoredSample]
"""Scored samples, ordered by prompt id and sample index. Samples with a hint have the higher
indices. All remaining samples of a prompt are in one block."""
BLOCK_SAMPLES = 2048
"""A block ends at the first prompt after this many samples."""
Outcome = tuple[list[ScoredSample], list[Dropped]]
"""(samples that passed a filter, dropped samples with the reason); no sample is lost."""
Filter = Callable[[Block], Outcome]
Remaining = Callable[[], Iterator[Block]]
"""Begins an iteration over all samples that remain when a filter's pass begins."""


def row_key(prompt_text: str, completion: str) -> int:
    """Return a 64-bit key that is equal for duplicate rows, within a round and across rounds."""
    text = f"{prompt_id(prompt_text)}\0{normalised_text(completion)}"
    # 64 bits: a set of a million keys takes 60 MB, and one in 40 million such sets has a false
    # match.
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def make_scored_samples(
    prompts: Mapping[str, Prompt], samples: Iterable[Sample]
) -> list[ScoredSample]:
    """Join samples with their prompts and count votes; return them by prompt id and sample index.

    Answers count as equal where the prompt's verifier says so. Unfinished and empty answers do not
    vote but count as samples: a prompt that is mostly not answered has no majority to speak of. Of
    equally frequent answers the majority is the one that was sampled first, and the samples say
    that it is tied.

    Args:
        prompts: Prompt id → prompt.
        samples: Their samples, in any order.

    Raises:
        Corrupt: A sample has no prompt, or comes twice.
    """
    groups: dict[str, dict[int, Sample]] = defaultdict(dict)
    for sample in samples:
        if sample.prompt_id not in prompts:
            raise Corrupt(
                f"sample {sample.index} answers prompt {sample.prompt_id}, "
                "which is not in prompts.jsonl"
            )
        if sample.index in groups[sample.prompt_id]:
            raise Corrupt(
                f"sample {sample.index} of prompt {sample.prompt_id} comes twice"
            )
        groups[sample.prompt_id][sample.index] = sample
    scored_samples = []
    # Sorted: what follows depends neither on the number of shards nor on their order.
    for identity in sorted(groups):
        prompt = prompts[identity]
        sample_by_index = groups[identity]
        group = [sample_by_index[index] for index in sorted(sample_by_index)]
        answers = vote_keys(prompt, [sample.text for sample in group])
        votes = Counter(
            answer
            for answer, sample in zip(answers, group, strict=True)
            if answer and sample.finished
        )
        # `most_common` orders ties by insertion, so by sample index.
        majority, num_votes = votes.most_common(1)[0] if votes else ("", 0)
        is_tied = list(votes.values()).count(num_votes) > 1
        scored_samples += [
            ScoredSample(
                prompt=prompt,
                sample=sample,
                text=sample.text,
                answer=answer,
                majority=majority,
                vote_share=num_votes / len(group),
                is_tied=is_tied,
                num_samples=len(group),
            )
            for sample, answer in zip(group, answers, strict=True)
        ]
    return scored_samples


@dataclass(frozen=True)
class NoScore:
    """A scorer has no score for a sample, and says why."""

    reason: str


def drop(scored: ScoredSample, reason: str, detail: str) -> Dropped:
    """Return the row of `dropped.jsonl` for a sample; the reference answer is not in it."""
    row = {
        "prompt": scored.prompt.text,
        "tags": scored.prompt.tags,
        **scored.sample.model_dump(mode="json"),
    }
    if scored.hinted:
        row["hinted"] = True
    if scored.scores:
        row["scores"] = dict(scored.scores)
    return Dropped(reason=reason, detail=detail, row=row)


def split(block: Block, refusal: Callable[[ScoredSample], str], reason: str) -> Outcome:
    """Return the outcome of a filter on a block.

    Args:
        block: The samples.
        refusal: Returns the detail of the drop, empty to let the sample pass.
        reason: Reason of every drop.
    """
    passed: list[ScoredSample] = []
    dropped: list[Dropped] = []
    for scored in block:
        if detail := refusal(scored):
            dropped.append(drop(scored, reason, detail))
        else:
            passed.append(scored)
    return passed, dropped


def with_score(scored: ScoredSample, name: str, score: float) -> ScoredSample:
    """Return the sample with one more score."""
    return replace(scored, scores={**scored.scores, name: score})


def by_prompt(block: Block) -> Iterator[list[ScoredSample]]:
    """Yield the samples of a block, prompt by prompt; those with a hint apart, after the others."""
    group: list[ScoredSample] = []
    for scored in block:
        if group and _group_key(group[0]) != _group_key(scored):
            yield group
            group = []
        group.append(scored)
    if group:
        yield group


def _group_key(scored: ScoredSample) -> tuple[str, bool]:
    return scored.prompt.id, scored.hinted
