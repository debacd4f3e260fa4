"""Causes in the samples, the verifier or the training mix.

Each check is a function of the evidence that returns a finding or None. Thresholds are named at the
top. No source gives them: they were chosen on the first three seeds of `tests.benchmarks.diagnosis`,
and its figures say what they are worth on other seeds, milder faults and other kinds of fault.
"""

from __future__ import annotations

from components.contracts.summaries import SelectSummary
from components.decide.reflection.changes import Change
from components.decide.reflection.evidence import Evidence
from components.decide.reflection.measures import ALIKE, LEFT_OUT
from components.decide.reflection.plan import Finding
from components.statistics import mcnemar_two_sided

FEW_PASSED = 0.1
"""Share of the samples that pass the quality filters, below which too few do."""
FEW_DISTINCT = 0.1
"""Share of the samples beyond each prompt's first that differ, below which diversity is low."""
NEARLY_GREEDY = 0.03
"""The same, for a higher priority."""
SOLVED = 0.9
"""Share of prompts with an accepted answer above which low diversity is no problem."""
FINISHED = 0.9
"""Share of answers that end by themselves, below which too many are cut off."""
RUNS_ON = 0.3
"""Share of the unfinished answers that hold the right answer and go on, above which the model does
not know how to end."""
ABOVE_DEV_NATS = 0.2
ABOVE_DEV = 1.25
"""A training loss that is above the dev loss by this many nats, and by this factor, cannot be
learned: the rows contradict each other."""
FLOODED = 0.25
"""Share of the draws that repeat another row, above which there are too many."""
VERIFIER_STANDARD_ERRORS = 4.0
VERIFIER_GAP = 0.15
VERIFIER_PROMPTS = 30
"""The verifier disagrees with the champion's accuracy if it differs by this many standard errors,
and by this share, on at least this many prompts."""
LENIENT = 0.5
"""Share of the minority answers that pass, from which a verifier is too lenient."""
LESS_UNANIMOUS = 0.3
UNANIMOUS = 0.5
"""Refused answers look right if samples agree on them at least `UNANIMOUS`, and no more than
`LESS_UNANIMOUS` less than on accepted answers."""
CONTAMINATED = 0.01
"""Share of the validation prompts that are trained on, above which results are too good."""
SURELY_CONTAMINATED = 0.05
"""The same, for a higher priority."""
SCATTERED = 0.75
"""Part of the champion's accuracy that samples reach, below which the temperature is too high."""
WIDELY_SCATTERED = 0.5
"""The same, for a higher priority."""
LITTLE_AGREEMENT = 0.6
"""Mean share of a prompt's samples that agree, below which they scatter."""
FEW_LABELLED = 0.35
"""Share of labelled draws below which they are few."""
NOT_BY_SAMPLING = (
    "no_answer",
    "in_evaluation",
    "unscored",
    "cap",
    "choice",
    "solved",
    "empty",
)
"""Reasons for a drop that no other way of sampling changes: a person has to."""
SHIFTED = 0.25
"""Jensen–Shannon distance of labelled and generated answers above which they are unlike."""


def truncation(evidence: Evidence) -> Finding | None:
    """Report answers that are cut off: the limit is too low, or hot sampling rambles."""
    # Samples are drawn at a temperature, dev answers greedily: either may be cut off.
    dev_share = evidence.measures.get("finished_share", 1.0)
    share = min(evidence.finished_share, dev_share)
    if share >= FINISHED or runs_on(evidence):
        return None
    description = (
        f"only {share:.3f} of the answers ended before generate.max_new_tokens "
        f"({evidence.recipe.generate.max_new_tokens})"
    )
    # A round without samples is judged by the evaluation's greedy answers, which no temperature
    # changes.
    change: Change | None = "temperature_down" if evidence.select.generated else None
    of_samples = evidence.select.generated > 0 and evidence.finished_share <= dev_share
    if evidence["cut_short"] > 0.5 * (1 - share):
        change = "answer_tokens_up"
        description += f"; {evidence['cut_short']:.3f} of all are the beginning of the right answer"
    return evidence.finding(
        "truncation",
        0.9,
        change,
        description,
        f"at least {FINISHED} of the answers end by themselves; "
        "if not, raise generate.max_new_tokens",
        measure="samples_finished" if of_samples else "finished_share",
        direction="up",
        otherwise="answer_tokens_up" if evidence.select.generated else None,
    )


def runs_on(evidence: Evidence) -> bool:
    """Return True if many unfinished answers hold the right answer and go on."""
    unfinished = 1 - evidence.measures.get("finished_share", 1.0)
    return unfinished > 1 - FINISHED and evidence["runs_on"] > RUNS_ON * unfinished


def stop_token_wrong(evidence: Evidence) -> Finding | None:
    """Report right answers that do not end: the end is not trained on, or generation ignores it."""
    if not runs_on(evidence):
        return None
    return evidence.finding(
        "stop_token_wrong",
        0.95,
        None,
        f"{1 - evidence['finished_share']:.3f} of the answers never end, "
        f"{evidence['runs_on']:.3f} of all say the right answer and go on: "
        "the end-of-turn token is not in the loss, or generation does not stop at it; "
        "check the chat template and the tokenizer's eos token",
        "answers that end",
        measure="finished_share",
        direction="up",
    )


def too_few_accepted(evidence: Evidence) -> Finding | None:
    """Report a round in which hardly any sample was accepted."""
    select = evidence.select
    min_accepted = evidence.recipe.select.min_accepted
    is_weak = select.why_weak is not None
    if not select.generated and not is_weak:
        return None
    share = passed(select)
    if share >= FEW_PASSED and select.accepted >= 2 * min_accepted and not is_weak:
        return None
    change, otherwise = _more_accepted(evidence)
    reasons = ", ".join(f"{name} {count}" for name, count in select.dropped.items())
    return evidence.finding(
        "too_few_accepted",
        0.85,
        change,
        f"{select.accepted} of {select.generated} samples accepted "
        f"({share:.3f} passed the quality filters; select.min_accepted is {min_accepted}; "
        f"dropped: {reasons or 'none'})",
        "more accepted rows; "
        "if not, easier prompts, a longer first stage, or answers as hints (generate.hints)",
        measure="accepted",
        direction="up",
        otherwise=otherwise,
    )


def _more_accepted(evidence: Evidence) -> tuple[Change | None, Change | None]:
    """Return (change, the one if that is not possible) by the reason that dropped most samples."""
    dropped = evidence.select.dropped
    # Greedy samples of one prompt are all the same: more of them would add nothing new.
    is_greedy = evidence.plan.temperature == 0.0
    more_samples: Change | None = None if is_greedy else "samples_up"
    if not dropped:
        # Without prompts there is nothing to draw more of.
        return more_samples if evidence.select.generated else None, None
    reason = max(sorted(dropped), key=lambda name: dropped[name])
    match reason:
        case "unfinished":
            return "answer_tokens_up", "temperature_down"
        case "vote" | "length":
            return "temperature_down", more_samples
        case "duplicate" | "near_duplicate" | "same_path":
            return "temperature_up", more_samples
        case _ if reason in NOT_BY_SAMPLING:
            return None, None
        case _:
            return more_samples, None if is_greedy else "temperature_down"


def low_diversity(evidence: Evidence) -> Finding | None:
    """Report samples of a prompt that are nearly all the same, while prompts are left unsolved."""
    select = evidence.select
    distinct_share = select.distinct_share
    samples = evidence.plan.samples_per_prompt
    # Then the samples are votes of several models, which are meant to agree.
    if evidence.recipe.train.num_peers > 1:
        return None
    if distinct_share is None or samples < 2:
        return None
    # Prompts that have a right answer, of which the difficulty band or the choice of rows left
    # nothing; at least so many.
    left_out = sum(select.dropped.get(reason, 0) for reason in LEFT_OUT) // samples
    unanswered = max(0, select.prompts - select.prompts_accepted - left_out)
    if 1 - unanswered / max(1, select.prompts) >= SOLVED:
        return None
    # The first sample of a prompt is always new: only the others tell whether sampling varies.
    least_share = 1 / samples
    fresh = (distinct_share - least_share) / (1 - least_share)
    greedy = evidence.plan.temperature == 0.0
    if fresh >= FEW_DISTINCT and not greedy:
        return None
    return evidence.finding(
        "low_diversity",
        0.9 if greedy or fresh < NEARLY_GREEDY else 0.7,
        "temperature_up",
        f"{samples} samples per prompt at temperature {evidence.plan.temperature:g}, "
        f"{distinct_share:.3f} of them distinct ({least_share:.3f} is the least), "
        f"and {unanswered} of {select.prompts} prompts without an accepted answer",
        "more distinct answers and more prompts with an accepted one",
        measure="distinct_share",
        direction="up",
    )


def temperature_too_high(evidence: Evidence) -> Finding | None:
    """Report samples that hardly agree and are right much less often than greedy answers."""
    expected, share = evidence["majority_expected"], evidence["passed"]
    scattered = (
        share < SCATTERED * expected and evidence["agreement"] < LITTLE_AGREEMENT
    )
    if (
        evidence.plan.temperature < 1.0
        or evidence.plan.samples_per_prompt < 2
        or not scattered
    ):
        return None
    return evidence.finding(
        "temperature_too_high",
        0.9 if share < WIDELY_SCATTERED * expected else 0.75,
        "temperature_down",
        f"at temperature {evidence.plan.temperature:g} {share:.3f} of the samples pass, "
        f"the champion's greedy answers are right at {expected:.3f}; "
        f"on average {evidence['agreement']:.3f} of a prompt's samples agree",
        "more samples pass",
        measure="passed",
        direction="up",
    )


def verifier_false_negatives(evidence: Evidence) -> Finding | None:
    """Report a verifier that refuses right answers.

    It accepts fewer answers than the champion has right by its accuracy, and samples agree on the
    refused answers as on the accepted ones.
    """
    gap = evidence["majority_expected"] - evidence["majority_passed"]
    if not _disagrees(evidence, gap, -evidence["verifier_z"]):
        return None
    refused = evidence["refused_agreement"]
    accepted = evidence.measures.get("passed_agreement", 1.0)
    # Agreement tells wrong references from wrong answers: a model that errs scatters.
    if not refused >= max(UNANIMOUS, accepted - LESS_UNANIMOUS):
        return None
    return evidence.finding(
        "verifier_false_negatives",
        0.92,
        None,
        f"the verifier accepts the majority's answer to {evidence['majority_passed']:.3f} "
        f"of the prompts, the champion is right on {evidence['majority_expected']:.3f} "
        f"of like dev prompts ({-evidence['verifier_z']:.1f} standard errors), "
        f"and samples agree on refused answers ({refused:.3f}) "
        f"as on accepted ones ({accepted:.3f}): "
        "look at dropped.jsonl, mend the verifier or the references",
        "as many accepted as the champion gets right",
        measure="majority_passed",
        direction="up",
    )


def verifier_too_lenient(evidence: Evidence) -> Finding | None:
    """Report a verifier that accepts more answers than the champion can have right."""
    gap = evidence["majority_passed"] - evidence["majority_expected"]
    if not _disagrees(evidence, gap, evidence["verifier_z"]):
        return None
    # Easy prompts are answered right more often too. But there a strict verifier still refuses most
    # minority answers.
    if evidence["minority_passed"] < LENIENT:
        return None
    # Of a single sample there are no votes that a stricter share could count.
    several = evidence.plan.samples_per_prompt > 1
    return evidence.finding(
        "verifier_too_lenient",
        0.92,
        "vote_share_up" if several else "labelled_share_up",
        f"the verifier accepts the majority's answer to {evidence['majority_passed']:.3f} "
        f"of the prompts, the champion is right on {evidence['majority_expected']:.3f} "
        f"of like dev prompts ({evidence['verifier_z']:.1f} standard errors): "
        "wrong answers teach, unless these prompts are easier; "
        "look at accepted.jsonl, mend the verifier",
        "fewer accepted answers that most samples contradict, and no loss of accuracy",
        measure="disputed" if several else "accuracy",
        direction="down" if several else "up",
        otherwise="labelled_share_up",
    )


def label_noise(evidence: Evidence) -> Finding | None:
    """Report rows that cannot be learned: training loss settles well above the dev loss."""
    # Noise that the recipe puts on the rows keeps their loss up, and none is on the dev rows.
    if evidence.trained_on_noise:
        return None
    above = evidence["above_dev"]
    dev_loss = evidence["last_loss"] - above
    # `not >` here and below, instead of `<=`: a measure that is absent is NaN, and no comparison
    # with NaN holds.
    if (
        not above > max(ABOVE_DEV_NATS, (ABOVE_DEV - 1) * dev_loss)
        or evidence["loss_fall"] <= 0
    ):
        return None
    # Samples that a strict verifier let through are clean: then the labelled rows are noisy.
    strict = evidence.recipe.select.verifier and verifier_too_lenient(evidence) is None
    blames_labelled = strict or not evidence.select.generated
    remark = " (it must be the labelled rows: look at them)" if blames_labelled else ""
    return evidence.finding(
        "label_noise",
        0.85,
        "labelled_share_down" if blames_labelled else "labelled_share_up",
        f"training loss settles at {evidence['last_loss']:.4f}, dev loss at {dev_loss:.4f}: "
        f"part of the rows contradict what the others teach{remark}",
        "a training loss nearer to the dev loss",
        measure="above_dev",
        direction="down",
        otherwise="vote_share_up",
    )


def duplicate_flood(evidence: Evidence) -> Finding | None:
    """Report a few rows, written a little differently, that make a large part of the draws."""
    repeated, repeated_labelled = evidence["repeated"], evidence["repeated_labelled"]
    if not repeated > FLOODED:
        return None
    mostly_labelled = repeated_labelled > repeated / 2
    return evidence.finding(
        "duplicate_flood",
        0.85,
        "labelled_share_down" if mostly_labelled else "labelled_share_up",
        f"{repeated:.3f} of what is drawn repeats another row "
        f"but for spaces, case or punctuation ({repeated_labelled:.3f} labelled rows): "
        "look at mix.jsonl and remove them, "
        "or lower select.minhash_threshold and select.max_per_prompt",
        "fewer repeated draws",
        measure="repeated",
        direction="down",
    )


def evaluation_contamination(evidence: Evidence) -> Finding | None:
    """Report validation prompts in the mix, written a little differently: they prove nothing."""
    share = evidence["contaminated"]
    if not share > CONTAMINATED:
        return None
    return evidence.finding(
        "evaluation_contamination",
        0.95 if share > SURELY_CONTAMINATED else 0.7,
        None,
        f"{share:.3f} of the validation prompts are in the training mix "
        "but for spaces, case or punctuation: "
        "scores are too good, and the gate may promote what only remembers; "
        "remove these rows from the labelled data",
        "no validation prompt in the mix",
        measure="contaminated",
        direction="down",
    )


def labelled_share_too_low(evidence: Evidence) -> Finding | None:
    """Report generated rows that are unlike the labelled ones and outweigh them."""
    comparison = evidence.comparison
    shifted = evidence["answer_shift"] > SHIFTED
    if (
        comparison is None
        or not evidence["labelled_weight"] < FEW_LABELLED
        or not shifted
    ):
        return None
    # Few and unlike labelled rows do no harm by themselves: only a loss makes them a cause.
    wins = comparison.wins
    losses = comparison.losses
    if wins >= losses or mcnemar_two_sided(wins, losses) > 0.05:
        return None
    return evidence.finding(
        "labelled_share_too_low",
        0.85,
        "labelled_share_up",
        f"labelled rows are {evidence['labelled_weight']:.3f} of what is drawn, "
        "the answers of the others are unlike them "
        f"(Jensen-Shannon distance {evidence['answer_shift']:.3f}), "
        f"and {losses} of {comparison.pairs} prompts were lost, {wins} won",
        "fewer lost prompts",
        measure="accuracy",
        direction="up",
    )


def _disagrees(evidence: Evidence, gap: float, standard_errors: float) -> bool:
    """Return True if verifier and champion differ by more than chance, on enough prompts.

    Args:
        evidence: The round.
        gap: Difference of the verifier's share of right answers and the champion's.
        standard_errors: The same in standard errors.
    """
    enough = (
        evidence["majority_prompts"] >= VERIFIER_PROMPTS
        and evidence.recipe.select.verifier
    )
    return enough and gap > VERIFIER_GAP and standard_errors > VERIFIER_STANDARD_ERRORS


def passed(select: SelectSummary) -> float:
    """Return the share of the samples that pass the quality filters, 0 to 1."""
    # A repeat was good enough too: it is dropped because there are others like it.
    repeated = sum(select.dropped.get(reason, 0) for reason in ALIKE)
    return float((select.accepted + repeated) / max(1, select.generated))
