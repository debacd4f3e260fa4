"""Precision and recall of the filters, measured on samples of prompts whose answers are known.

These prompts are never trained on. Samples of one prompt stand and fall together, so every prompt
counts once, by its share of right samples. Bounds are lower one-sided 95 % ones (Clopper–Pearson).

Whether filters help is a comparison of the model's wrong samples with the accepted wrong ones, on
the same prompts. A bound of the precision against the model's accuracy would refuse good filters:
of a model that is right on 97 %, 200 prompts never bring the bound of a 99 % filter above 97 % for
sure.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.bounded_mean import bounded_mean_test
from components.contracts.summaries.select import FilterAudit, FilterQuality
from components.select.scored_samples import Block, Filter, ScoredSample, by_prompt
from components.statistics import binomial_upper
from components.verifiers import ONE_BY_ONE, Room, verify_all

LEVEL = 0.05
"""Highest p-value that shows that filters help, or that they do not."""
USEFUL = 0.25
"""Part of the model's error rate that useful filters remove at least. It is a choice of ours: that
filters remove nothing at all could never be shown, with whatever number of prompts."""


class Audit:
    """The account of the audit samples, filter by filter."""

    def __init__(
        self, samples: Sequence[ScoredSample], room: Room = ONE_BY_ONE
    ) -> None:
        self._samples = list(samples)
        self._remaining: list[ScoredSample] = list(samples)
        # Verified once: all filters are measured against the same verdicts.
        is_right = verify_all(
            [(scored.prompt, scored.text) for scored in samples], room
        )
        keys = [scored.key for scored in samples]
        self._is_right = dict(zip(keys, is_right, strict=True))
        self._filters: dict[str, FilterQuality] = {}

    def pass_through(self, name: str, apply: Filter) -> None:
        """Apply a filter to the samples that earlier filters passed, and note its precision."""
        if not self._remaining:
            return
        passed, dropped = apply(self._remaining)
        num_samples = len(passed) + len(dropped)
        assert num_samples == len(self._remaining), f"{name} lost audit samples"
        # On what earlier filters passed: a filter is not praised for what others have dropped.
        self._filters[name] = self._measure(self._remaining, passed)
        self._remaining = passed

    def summary(self) -> FilterAudit | None:
        """Return the quality of the filters, or None without audit samples.

        Filters teach errors if it is shown that they do not help (2510.16657).
        """
        if not self._samples:
            return None
        overall = self._measure(self._samples, self._remaining)
        # Nothing could be proved of a model without errors.
        holds_errors = overall.precision != 1.0
        helps = not holds_errors or self._shown_to_help()
        teaches_errors = not helps and self._shown_to_be_useless()
        names = self._filters_that_chose()
        return FilterAudit(
            prompts=len({scored.prompt.id for scored in self._samples}),
            samples=len(self._samples),
            model_accuracy=_mean(self._right_shares(self._samples)),
            filters=self._filters,
            all=overall,
            teaches_errors=names if teaches_errors else (),
            unproved=names if not helps and not teaches_errors else (),
        )

    def _shown_to_help(self) -> bool:
        """Return True if accepted samples are shown to be wrong less often than all samples."""
        if not self._remaining:
            return False
        all_wrong, accepted_wrong = self._wrong_shares()
        gains = [
            before - after
            for before, after in zip(all_wrong, accepted_wrong, strict=True)
        ]
        # A prompt loses most if its only accepted sample is its only wrong one.
        most_samples = max(len(group) for group in by_prompt(self._samples))
        largest_loss = self._prompts_per_accepted() - 1 / most_samples
        return _is_above_zero(gains, largest_loss)

    def _shown_to_be_useless(self) -> bool:
        """Return True if accepted samples are shown to have more than 1 - USEFUL of the model's
        error rate."""
        if not self._remaining:
            return False
        most_wrong = 1 - USEFUL
        excess = [
            after - most_wrong * before
            for before, after in zip(*self._wrong_shares(), strict=True)
        ]
        return _is_above_zero(excess, most_wrong)

    def _wrong_shares(self) -> tuple[list[float], list[float]]:
        """Return, for each prompt, the share of its samples that is wrong, and that of its accepted
        samples.

        The means over all prompts are the error rates of the model and of what is accepted: prompts
        without an accepted sample have 0, and the others count the more.
        """
        weight = self._prompts_per_accepted()
        accepted = {group[0].prompt.id: group for group in by_prompt(self._remaining)}
        all_wrong = []
        accepted_wrong = []
        for group in by_prompt(self._samples):
            all_wrong.append(self._wrong_share(group))
            kept = accepted.get(group[0].prompt.id)
            accepted_wrong.append(weight * self._wrong_share(kept) if kept else 0.0)
        return all_wrong, accepted_wrong

    def _prompts_per_accepted(self) -> float:
        """Return the number of prompts over that of prompts with an accepted sample."""
        num_prompts = sum(1 for _ in by_prompt(self._samples))
        return num_prompts / sum(1 for _ in by_prompt(self._remaining))

    def _wrong_share(self, group: Block) -> float:
        return 1 - self._num_right(group) / len(group)

    def _filters_that_chose(self) -> tuple[str, ...]:
        """Return the names of filters that dropped something; all names, if none did."""
        choosers = [
            name
            for name, counts in self._filters.items()
            if counts.accepted < counts.given
        ]
        return tuple(choosers or self._filters)

    def _measure(self, given: Block, passed: Block) -> FilterQuality:
        """Return counts of samples, and shares by prompt."""
        # By prompt: ten right samples of one prompt prove little more than one.
        shares = self._right_shares(passed)
        num_right_given = self._num_right(given)
        num_prompts = len(shares)
        # A prompt counts as proved right only as a whole: the sum of shares is rounded down, with
        # an allowance for the rounding of thirds and sevenths.
        num_right_prompts = int(sum(shares) + 1e-9)
        num_wrong_prompts = num_prompts - num_right_prompts
        upper_error = binomial_upper(num_wrong_prompts, num_prompts) if shares else 1.0
        return FilterQuality(
            given=len(given),
            accepted=len(passed),
            prompts_accepted=num_prompts,
            precision=_mean(shares) if shares else None,
            precision_low=1.0 - upper_error,
            recall=self._num_right(passed) / num_right_given
            if num_right_given
            else None,
            accepted_share=len(passed) / max(1, len(given)),
        )

    def _num_right(self, block: Block) -> int:
        return sum(self._is_right[scored.key] for scored in block)

    def _right_shares(self, block: Block) -> list[float]:
        """Return the share of right samples of each prompt."""
        return [self._num_right(group) / len(group) for group in by_prompt(block)]


def reason_blocked(audit: FilterAudit | None) -> str | None:
    """Return why `decide` is to reject the candidate of this round, with numbers, or None.

    The samples that the filters accept are then shown to be hardly right more often than the model
    is: training on them teaches the model its own errors (2510.16657).
    """
    if audit is None or not audit.teaches_errors:
        return None
    return (
        f"{_numbers(audit, audit.teaches_errors)}: with 95 % confidence they remove less than "
        f"{USEFUL:.0%} of its errors, so this round teaches errors. Use stricter filters "
        "(select.min_vote_share, a verifier, a judge)"
    )


def reason_unproved(audit: FilterAudit | None) -> str | None:
    """Return a warning if the audit prompts show neither that the filters help nor that they do
    not; else None."""
    if audit is None or not audit.unproved:
        return None
    return (
        f"{_numbers(audit, audit.unproved)}: these prompts show neither that the filters help nor "
        "that they do not. A larger audit split would"
    )


def _numbers(audit: FilterAudit, names: tuple[str, ...]) -> str:
    precision = "nothing"
    if audit.all.precision is not None:
        precision = f"precision {audit.all.precision:.3f}"
    return (
        f"on {audit.prompts} audit prompts {', '.join(names)} keep {precision}, the model's own "
        f"accuracy is {audit.model_accuracy:.3f}"
    )


def _is_above_zero(values: Sequence[float], largest_loss: float) -> bool:
    """Return True if the mean of one value a prompt is shown to be above 0."""
    test = bounded_mean_test(values, range(len(values)), largest_loss, LEVEL)
    return test.p_value <= LEVEL


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
