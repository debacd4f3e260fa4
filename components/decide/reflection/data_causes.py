"""Causes that lie in the samples, the verifier or the training mix. Each check is a small function
of the evidence that returns a finding or None; thresholds are named at the top."""

from __future__ import annotations

from components.contracts.summaries import SelectSummary
from components.decide.reflection.evidence import Evidence
from components.decide.reflection.measures import ALIKE, LEFT_OUT
from components.decide.reflection.plan import Change, Finding
from components.statistics import mcnemar_two_sided

FEW_PASSED = 0.1
FEW_DISTINCT, NEARLY_GREEDY = 0.1, 0.03
"""Share of the samples beyond each prompt's first that say something new."""
SOLVED = 0.9
"""Share of prompts with an accepted answer above which sameness is no problem."""
FINISHED = 0.9
RUNS_ON = 0.3
"""Share of the unfinished answers that hold the right answer and go on: the model does not know how
to end."""
ABOVE_DEV_NATS, ABOVE_DEV = 0.2, 1.25
"""A training loss so far above the dev loss cannot be learned: the rows contradict what they
teach."""
FLOODED = 0.25
"""Share of the draws that repeat another row."""
VERIFIER_STANDARD_ERRORS, VERIFIER_GAP, VERIFIER_PROMPTS = 4.0, 0.15, 30
"""How far the verifier may differ from what the champion is known to get right, and on how many
prompts at least."""
LENIENT = 0.5
"""Share of the answers that most samples contradict from which a verifier lets them through."""
AS_SURE, SURE = 0.3, 0.5
"""Right answers that a verifier refuses are as unanimous as those it accepts, but for the first,
and at least so."""
CONTAMINATED = 0.01
SCATTERED, WIDELY_SCATTERED = 0.75, 0.5
"""Part of the champion's accuracy below which sampling loses too much of it."""
FEW_LABELLED, SHIFTED = 0.35, 0.25
"""Share of labelled draws, and distance between labelled and self-made answers, from which the
latter pull a model away."""


def truncation(evidence: Evidence) -> Finding | None:
    """Answers are cut off: the limit is too low, or hot sampling rambles."""
    share = min(evidence.finished_share, evidence.measures.get("finished_share", 1.0))
    if share >= FINISHED or runs_on(evidence):
        return None
    short = evidence["cut_short"] > 0.5 * (1 - share)
    change: Change | None = "temperature_down" if evidence.select.generated else None
    begun = (
        f"; {evidence['cut_short']:.3f} of all are the beginning of the right answer"
        if short
        else ""
    )
    return evidence.found(
        "truncation",
        0.9,
        "answer_tokens_up" if short else change,
        f"only {share:.3f} of the answers ended before generate.max_new_tokens "
        f"({evidence.recipe.generate.max_new_tokens}){begun}",
        f"at least {FINISHED} of the answers end by themselves; if not, raise generate.max_new_tokens",
        measure="finished_share",
        direction="up",
    )


def runs_on(evidence: Evidence) -> bool:
    """Whether many unfinished answers hold the right answer and go on."""
    unfinished = 1 - evidence.measures.get("finished_share", 1.0)
    return unfinished > 1 - FINISHED and evidence["runs_on"] > RUNS_ON * unfinished


def stop_token_wrong(evidence: Evidence) -> Finding | None:
    """The model says the right answer and does not end it: training never showed it the end, or
    generation does not know it."""
    if not runs_on(evidence):
        return None
    return evidence.found(
        "stop_token_wrong",
        0.95,
        None,
        f"{1 - evidence['finished_share']:.3f} of the answers never end, {evidence['runs_on']:.3f} of all say the "
        "right answer and go on: the end-of-turn token is not in the loss, or generation does not stop at it; check "
        "the chat template and the tokenizer's eos token",
        "answers that end",
        measure="finished_share",
        direction="up",
    )


def too_few_accepted(evidence: Evidence) -> Finding | None:
    """Hardly any sample was good enough to teach."""
    select, least = evidence.select, evidence.recipe.select.min_accepted
    if not select.generated:
        return None
    share = passed(select)
    if share >= FEW_PASSED and select.accepted >= 2 * least:
        return None
    # Greedy samples of one prompt are all the same: more of them would find nothing new.
    change: Change | None = "samples_up" if evidence.plan.temperature > 0 else None
    reasons = ", ".join(f"{name} {count}" for name, count in select.dropped.items())
    return evidence.found(
        "too_few_accepted",
        0.85,
        change,
        f"{select.accepted} of {select.generated} samples accepted ({share:.3f} passed the quality filters; "
        f"select.min_accepted is {least}; dropped: {reasons or 'none'})",
        "more accepted rows; if not, easier prompts, a longer first stage, or answers as hints (generate.hints)",
        measure="accepted",
        direction="up",
    )


def low_diversity(evidence: Evidence) -> Finding | None:
    """Several samples per prompt that nearly all say the same, while prompts are left unsolved."""
    select, samples = evidence.select, evidence.plan.samples_per_prompt
    if evidence.recipe.train.num_peers > 1:
        return None  # the samples are votes of several models: that they agree is what is asked for
    distinct_share = select.distinct_share
    if distinct_share is None or samples < 2:
        return None
    # At least so many prompts have a right answer of which the difficulty band or the choice of
    # rows left nothing.
    left_out = sum(select.dropped.get(reason, 0) for reason in LEFT_OUT) // samples
    unanswered = max(0, select.prompts - select.prompts_accepted - left_out)
    if 1 - unanswered / max(1, select.prompts) >= SOLVED:
        return None
    fresh = (distinct_share - 1 / samples) / (1 - 1 / samples)
    greedy = evidence.plan.temperature == 0.0
    if fresh >= FEW_DISTINCT and not greedy:
        return None
    return evidence.found(
        "low_diversity",
        0.9 if greedy or fresh < NEARLY_GREEDY else 0.7,
        "temperature_up",
        f"{samples} samples per prompt at temperature {evidence.plan.temperature:g}, {distinct_share:.3f} of "
        f"them distinct ({1 / samples:.3f} is the least), and {unanswered} of "
        f"{select.prompts} prompts without an accepted answer",
        "more distinct answers and more prompts with an accepted one",
        measure="distinct_share",
        direction="up",
    )


def temperature_too_high(evidence: Evidence) -> Finding | None:
    """Sampling scatters: a prompt's samples hardly agree and are right much less often than the
    greedy answer."""
    expected, share = evidence["majority_expected"], evidence["passed"]
    scattered = share < SCATTERED * expected and evidence["agreement"] < 0.6
    if evidence.plan.temperature < 1.0 or evidence.plan.samples_per_prompt < 2 or not scattered:
        return None
    return evidence.found(
        "temperature_too_high",
        0.9 if share < WIDELY_SCATTERED * expected else 0.75,
        "temperature_down",
        f"at temperature {evidence.plan.temperature:g} {share:.3f} of the samples pass, the champion's greedy answers "
        f"are right at {expected:.3f}; on average {evidence['agreement']:.3f} of a prompt's samples agree",
        "more samples pass",
        measure="passed",
        direction="up",
    )


def verifier_false_negatives(evidence: Evidence) -> Finding | None:
    """The verifier refuses answers that the champion, by its accuracy, should have right, and of
    which it is as sure as of those that pass."""
    gap = evidence["majority_expected"] - evidence["majority_passed"]
    if not _telling(evidence, gap, -evidence["verifier_z"]):
        return None
    refused, accepted = (
        evidence["refused_agreement"],
        evidence.measures.get("passed_agreement", 1.0),
    )
    if not refused >= max(SURE, accepted - AS_SURE):
        return None
    return evidence.found(
        "verifier_false_negatives",
        0.92,
        None,
        f"the verifier accepts the majority's answer to {evidence['majority_passed']:.3f} of the prompts, the champion "
        f"is right on {evidence['majority_expected']:.3f} of like validation prompts ({-evidence['verifier_z']:.1f} "
        f"standard errors), and samples agree on refused answers ({refused:.3f}) as on accepted ones ({accepted:.3f}): "
        "look at dropped.jsonl, mend the verifier or the references",
        "as many accepted as the champion gets right",
        measure="majority_passed",
        direction="up",
    )


def verifier_too_lenient(evidence: Evidence) -> Finding | None:
    """The verifier accepts more than the champion can have right, so errors teach."""
    gap = evidence["majority_passed"] - evidence["majority_expected"]
    if not _telling(evidence, gap, evidence["verifier_z"]):
        return None
    # Easy prompts are answered right more often too; but a strict verifier refuses what most
    # samples contradict.
    if evidence["minority_passed"] < LENIENT:
        return None
    several = evidence.plan.samples_per_prompt > 1
    return evidence.found(
        "verifier_too_lenient",
        0.92,
        "vote_share_up" if several else "labelled_share_up",
        f"the verifier accepts the majority's answer to {evidence['majority_passed']:.3f} of the prompts, the champion "
        f"is right on {evidence['majority_expected']:.3f} of like validation prompts ({evidence['verifier_z']:.1f} "
        "standard errors): wrong answers teach, unless these prompts are easier; look at accepted.jsonl, mend the "
        "verifier",
        "fewer accepted answers that most samples contradict, and no loss of accuracy",
        measure="disputed" if several else "accuracy",
        direction="down" if several else "up",
        otherwise="labelled_share_up",
    )


def label_noise(evidence: Evidence) -> Finding | None:
    """Rows that cannot be learned: training loss settles well above the loss on dev rows of
    the same kind."""
    above, dev_loss = evidence["above_dev"], evidence["last_loss"] - evidence["above_dev"]
    if not above > max(ABOVE_DEV_NATS, (ABOVE_DEV - 1) * dev_loss) or evidence["loss_fall"] <= 0:
        return None
    # Samples that a strict verifier let through are clean: then it is the labelled rows.
    blames_labelled = not evidence.select.generated or (
        evidence.recipe.select.verifier and not verifier_too_lenient(evidence)
    )
    return evidence.found(
        "label_noise",
        0.85,
        "labelled_share_down" if blames_labelled else "labelled_share_up",
        f"training loss settles at {evidence['last_loss']:.4f}, dev loss at {dev_loss:.4f}: part of the rows "
        f"contradict what the others teach{' (it must be the labelled rows: look at them)' * blames_labelled}",
        "a training loss nearer to the dev loss",
        measure="above_dev",
        direction="down",
        otherwise="vote_share_up",
    )


def duplicate_flood(evidence: Evidence) -> Finding | None:
    """A few rows, written a little differently, take a large part of what is drawn."""
    repeated, repeated_labelled = evidence["repeated"], evidence["repeated_labelled"]
    if not repeated > FLOODED:
        return None
    mostly_labelled = repeated_labelled > repeated / 2
    return evidence.found(
        "duplicate_flood",
        0.85,
        "labelled_share_down" if mostly_labelled else "labelled_share_up",
        f"{repeated:.3f} of what is drawn repeats another row but for spaces, case or punctuation "
        f"({repeated_labelled:.3f} labelled rows): look at mix.jsonl and remove them, or lower "
        "select.minhash_threshold and select.max_per_prompt",
        "fewer repeated draws",
        measure="repeated",
        direction="down",
    )


def evaluation_contamination(evidence: Evidence) -> Finding | None:
    """Validation prompts are trained on, written a little differently: their results prove nothing."""
    share = evidence["contaminated"]
    if not share > CONTAMINATED:
        return None
    return evidence.found(
        "evaluation_contamination",
        0.95 if share > 0.05 else 0.7,
        None,
        f"{share:.3f} of the validation prompts are in the training mix but for spaces, case or punctuation: scores "
        "are too good, and the gate may promote what only remembers; remove these rows from the labelled data",
        "no validation prompt in the mix",
        measure="contaminated",
        direction="down",
    )


def labelled_share_too_low(evidence: Evidence) -> Finding | None:
    """Self-made rows unlike the labelled ones outweigh them and pull the model away."""
    comparison, shifted = evidence.comparison, evidence["answer_shift"] > SHIFTED
    if comparison is None or not evidence["labelled_weight"] < FEW_LABELLED or not shifted:
        return None
    if (
        comparison.wins >= comparison.losses
        or mcnemar_two_sided(comparison.wins, comparison.losses) > 0.05
    ):
        return None
    return evidence.found(
        "labelled_share_too_low",
        0.85,
        "labelled_share_up",
        f"labelled rows are {evidence['labelled_weight']:.3f} of what is drawn, the answers of the "
        f"others are unlike them (Jensen-Shannon distance {evidence['answer_shift']:.3f}), and "
        f"{comparison.losses} of {comparison.pairs} "
        f"prompts were lost, {comparison.wins} won",
        "fewer lost prompts",
        measure="accuracy",
        direction="up",
    )


def _telling(evidence: Evidence, gap: float, standard_errors: float) -> bool:
    """Whether verifier and champion differ by more than chance, on enough prompts."""
    enough = evidence["majority_prompts"] >= VERIFIER_PROMPTS and evidence.recipe.select.verifier
    return enough and gap > VERIFIER_GAP and standard_errors > VERIFIER_STANDARD_ERRORS


def passed(select: SelectSummary) -> float:
    """Share of the samples that the quality filters let through, whether or not they repeat others."""
    repeated = sum(select.dropped.get(reason, 0) for reason in ALIKE)
    return (select.accepted + repeated) / max(1, select.generated)
