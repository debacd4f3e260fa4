"""S5: a secret of the surroundings reaches nothing that a step writes or says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

from tests.promises.counting import Case
from tests.promises.small_campaign import STEPS, SmallCampaign

CANARIES = {
    "AWS_ACCESS_KEY_ID": "AKIACANARY{}",
    "AWS_SECRET_ACCESS_KEY": "aws-canary-{}",
    "AWS_SESSION_TOKEN": "session-canary-{}",
    "HF_TOKEN": "hf_canary{}",
    "OPENAI_API_KEY": "sk-canary-{}",
    "WANDB_API_KEY": "wandb-canary-{}",
    "RATCHET_JUDGE_KEY": "judge-canary-{}",
    "HF_ENDPOINT": "https://me:hub-canary-{}@mirror.invalid",
    "OPENAI_BASE_URL": "https://me:base-canary-{}@judge.invalid/v1",
    "HTTPS_PROXY": "http://me:proxy-canary-{}@127.0.0.1:9",
}
"""Variable → its value; `{}` is a number that is nowhere else."""
NUMBER = "7c1f90d3"


def environment() -> dict[str, str]:
    """Return variables that hold a canary each."""
    return {name: value.format(NUMBER) for name, value in CANARIES.items()}


def cases(campaign: SmallCampaign) -> Iterator[Case]:
    """Yield each step and variable: what the step said, and each file of its store."""
    for step, name in itertools.product(STEPS, CANARIES):
        yield Case(f"{step}, {name}", partial(_leaks, campaign, step, name))


def _leaks(campaign: SmallCampaign, step: str, name: str) -> str:
    canary = _secret_of(name)
    files = [
        path
        for path in (campaign.folder / f"after-{step}").rglob("*")
        if path.is_file()
    ]
    found = [path.name for path in files if canary in path.read_bytes()]
    if canary in campaign.said[step].encode():
        found.append("what it said")
    return f"the secret is in {found}" if found else ""


def _secret_of(name: str) -> bytes:
    """Return the part of a canary that is secret: of an address the password."""
    value = CANARIES[name].format(NUMBER)
    _, _, after_user = value.rpartition("//")
    password = after_user.partition("@")[0].partition(":")[2]
    return (password or value).encode()
