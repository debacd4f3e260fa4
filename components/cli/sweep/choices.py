"""The measures that a sweep can compare campaigns by. Apart: `--help` waits for nothing else."""

from __future__ import annotations

from typing import Literal

Quality = Literal["score", "consistency"]
"""`score`: the champion's, by the goal's metric; `consistency`: the samples' agreement."""
DiversityName = Literal["vendi", "distinct_2", "distinct_samples"]
"""`vendi` and `distinct_2` of the champion's answers; `distinct_samples`: of the round's samples."""
