"""The `doctor` verb: everything a run needs of its surroundings, tried out before a GPU is touched.

Each check ends as `ok`, `warning` (a run may work), `failed` (it will not, or not safely) or
`skipped` (could not be looked at, and why), and says what to do. Nothing is left behind but one
small object of the store, always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from components.cli.doctor.findings import Finding, failure, guarded
from components.cli.doctor.machine_checks import machine_checks, profile_checks
from components.cli.package.profiles import Profile
from components.errors import RatchetError
from components.train.launch.cluster_api import LaunchPatience


def all_checks(
    profile: Profile,
    *,
    store: str,
    endpoint: str,
    namespace: str,
    account: str,
    token_file: Path | None,
    here: str,
    environment: Mapping[str, str],
    clock: Callable[[], float],
) -> list[Finding]:
    """Every check there is something for; what is not looked at is a finding too."""
    from components.cli.doctor.image_checks import image_checks
    from components.cli.doctor.store_checks import store_checks

    found = list(profile_checks(profile))
    found += image_checks(profile.images, environment)
    if store:
        found += _collected("store", lambda: store_checks(store, environment, clock))
    else:
        found.append(
            Finding("store", "skipped", "none is given", "pass --store s3://bucket/prefix")
        )
    found += _collected(
        "kubernetes", lambda: _of_cluster(profile, namespace or "ratchet", account, environment)
    )
    found.append(
        guarded("pipelines", lambda: _of_pipelines(endpoint, namespace, token_file, environment))
    )
    if here:
        found += machine_checks(profile, here)
    return found


def _collected(check: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """All findings of a series of checks; a failure that ends it is the last one."""
    found: list[Finding] = []
    try:
        for one in look():
            found.append(one)
    except RatchetError as error:
        found.append(failure(check, error))
    return found


def _of_cluster(
    profile: Profile, namespace: str, account: str, environment: Mapping[str, str]
) -> Iterator[Finding]:
    from components.cli.doctor.cluster_checks import ApiServer, cluster_checks

    inside = bool(environment.get("KUBERNETES_SERVICE_HOST"))
    file = Path(environment.get("KUBECONFIG") or f"{environment.get('HOME', '')}/.kube/config")
    if not inside and not environment.get("KUBECONFIG") and not file.exists():
        yield Finding(
            "kubernetes",
            "skipped",
            "no cluster is configured",
            "set KUBECONFIG, or run doctor in a pod",
        )
        return
    api = ApiServer.from_environment(
        environment, LaunchPatience(connect_seconds=5, answer_seconds=15)
    )
    yield from cluster_checks(api, namespace, profile, account, as_account=not inside)


def _of_pipelines(
    endpoint: str, namespace: str, token_file: Path | None, environment: Mapping[str, str]
) -> Finding:
    from components.cli.cluster import kfp_api

    if not (endpoint or environment.get("KF_PIPELINES_ENDPOINT")):
        return Finding(
            "pipelines",
            "skipped",
            "no API is given",
            "pass --endpoint https://… or set KF_PIPELINES_ENDPOINT",
        )
    access = kfp_api.access_from(environment, endpoint, namespace, token_file)
    api = kfp_api.Pipelines(
        access, kfp_api.ApiPatience(connect_seconds=5, answer_seconds=15, give_up_seconds=5)
    )
    said = api.health()
    api.find_experiment("ratchet")  # whether the token may look
    return Finding(
        "pipelines", "ok", f"Kubeflow Pipelines {said.get('tag_name') or ''} at {access.endpoint}"
    )
