"""Choose the rows that make the loss on labelled rows fall: bilevel selection min_w L_val(θ*(w)),
one step at a time."""

from __future__ import annotations

from components.select.filter_settings import Rules
from components.select.scored_samples import Block, Filter, Outcome, Remaining, drop, scored


def filter_of(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops rows that would raise the loss on the labelled rows of the dev split: ⟨∇L_val, ∇l_i⟩ ≤ 0
    (1803.09050, 2402.04333).

    The others keep their weights. In proportion to the product, as 1803.09050 weighs a batch, right
    rows that the model finds hard count least: measured, that recovers less of what clean samples
    would teach.
    """
    if rules.section.influence is None:
        return None
    scorer = rules.scorers["influence"]

    def apply(block: Block) -> Outcome:
        kept, dropped = [], []
        for one, score in zip(block, scorer(block), strict=True):
            if score is None:
                dropped.append(drop(one, "unscored", "it is too long for the model"))
                continue
            marked = scored(one, "influence", score)
            if score > 0:
                kept.append(marked)
            else:
                dropped.append(
                    drop(
                        marked,
                        "influence",
                        f"influence {score:.3g}: it would raise the dev loss",
                    )
                )
        return kept, dropped

    return apply
