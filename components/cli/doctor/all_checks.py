"""The `doctor` verb: everything a run needs of its surroundings, tried out before a GPU is touched.

Each check ends as `ok`, `warning` (a run may work), `failed` (it will not, or not safely) or
`skipped` (could not be looked at, and why), and says what to do. Nothing is left behind but one
small object of the store, always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from components.cli.doctor.findings import Finding, failure, guarded
from components.cli.doctor.machine_checks import machine_checks, profile_checks
from components.cli.package.profiles import Profile, check_fit
from components.contracts.recipe import Recipe
from components.errors import RatchetError
from components.train.launch.cluster_api import LaunchPatience

if TYPE_CHECKING:
    from components.cli.cluster.kfp_api import Pipelines

# A person waits for the answer: much shorter than the patience of a run.
CONNECT_SECONDS = 5
ANSWER_SECONDS = 15


@dataclass(frozen=True)
class Surroundings:
    """The store, cluster and API that are looked at; an empty one is skipped."""

    store: str
    endpoint: str
    namespace: str
    account: str
    """Service account of the runs."""
    token_file: Path | None
    environment: Mapping[str, str]


def all_checks(
    profile: Profile,
    surroundings: Surroundings,
    *,
    local_step: str,
    clock: Callable[[], float],
    recipe: Recipe | None = None,
) -> list[Finding]:
    """Return the findings of all checks; what is not looked at is a finding too.

    Args:
        profile: Images and resources of the steps.
        surroundings: Store, cluster and API.
        local_step: Look at this pod or container too, as this step would; empty: not.
        clock: Seconds since the epoch, to compare with the store's.
        recipe: Look at what this recipe needs too; None: at what the profile needs alone.
    """
    from components.cli.doctor.image_checks import image_checks
    from components.cli.doctor.store_checks import store_checks

    store = surroundings.store
    environment = surroundings.environment
    findings = list(profile_checks(profile))
    if recipe is not None:
        findings.append(guarded("recipe", partial(_check_fit, recipe, profile)))
    findings += image_checks(profile.images, environment)
    if store:
        findings += _collect("store", lambda: store_checks(store, environment, clock))
    else:
        cure = "pass --store s3://bucket/prefix"
        findings.append(Finding("store", "skipped", "none is given", cure))
    findings += _collect(
        "kubernetes", lambda: _check_cluster(profile, surroundings, recipe)
    )
    findings.append(guarded("pipelines", lambda: _check_pipelines(surroundings)))
    if local_step:
        findings += machine_checks(profile, local_step)
    return findings


def _collect(check: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return all findings of a series of checks; a failure that ends it is the last one."""
    findings: list[Finding] = []
    try:
        # One by one: those before the failure are kept.
        for finding in look():
            findings.append(finding)
    except RatchetError as error:
        findings.append(failure(check, error))
    return findings


def _check_fit(recipe: Recipe, profile: Profile) -> Finding:
    check_fit(recipe, profile)
    return Finding("recipe", "ok", f"fits profile {profile.name}")


def _check_cluster(
    profile: Profile, surroundings: Surroundings, recipe: Recipe | None
) -> Iterator[Finding]:
    from components.cli.doctor.api_server import ApiServer
    from components.cli.doctor.cluster_checks import cluster_checks

    environment = surroundings.environment
    # Kubernetes sets this variable in every pod.
    inside_pod = bool(environment.get("KUBERNETES_SERVICE_HOST"))
    default_file = Path(environment.get("HOME", ""), ".kube", "config")
    is_configured = bool(environment.get("KUBECONFIG")) or default_file.exists()
    if not inside_pod and not is_configured:
        cure = "set KUBECONFIG, or run doctor in a pod"
        yield Finding("kubernetes", "skipped", "no cluster is configured", cure)
        return
    patience = LaunchPatience(
        connect_seconds=CONNECT_SECONDS, answer_seconds=ANSWER_SECONDS
    )
    api = ApiServer.from_environment(environment, patience)
    # In a pod we are the account already, and may not impersonate it.
    yield from cluster_checks(
        api,
        surroundings.namespace or _namespace_of_runs(surroundings),
        profile,
        surroundings.account,
        as_account=not inside_pod,
        recipe=recipe,
    )


def _namespace_of_runs(surroundings: Surroundings) -> str:
    """Return the namespace of runs that name none."""
    from components.cli.cluster.tenancy import PIPELINES_NAMESPACE

    try:
        api = _pipelines(surroundings)
        if api is not None and api.health().get("multi_user") is False:
            return PIPELINES_NAMESPACE
    except RatchetError:
        pass  # The check of the pipelines says why.
    return "ratchet"


def _pipelines(surroundings: Surroundings) -> Pipelines | None:
    """Return the API of Kubeflow Pipelines; None where no address is given."""
    from components.cli.cluster.kfp_api import Pipelines
    from components.cli.cluster.kfp_calls import ApiPatience, access_from

    environment = surroundings.environment
    if not (surroundings.endpoint or environment.get("KF_PIPELINES_ENDPOINT")):
        return None
    access = access_from(
        environment,
        surroundings.endpoint,
        surroundings.namespace,
        surroundings.token_file,
    )
    patience = ApiPatience(
        connect_seconds=CONNECT_SECONDS,
        answer_seconds=ANSWER_SECONDS,
        give_up_seconds=5,
    )
    return Pipelines(access, patience)


def _check_pipelines(surroundings: Surroundings) -> Finding:
    from components.cli.cluster.tenancy import (
        UPGRADE,
        check_tenancy,
        version_of,
        version_problem,
    )

    api = _pipelines(surroundings)
    if api is None:
        cure = "pass --endpoint https://… or set KF_PIPELINES_ENDPOINT"
        return Finding("pipelines", "skipped", "no API is given", cure)
    access = api.access
    health = api.health()
    # The health of a server may be read without a token; this call shows whether ours is accepted.
    api.find_experiment("ratchet")
    problem = version_problem(health)
    if problem:
        return Finding(
            "pipelines", "failed", f"{problem} at {access.endpoint}", UPGRADE
        )
    check_tenancy(health, surroundings.namespace)
    version = version_of(health) or "of an unknown version"
    return Finding(
        "pipelines", "ok", f"Kubeflow Pipelines {version} at {access.endpoint}"
    )
