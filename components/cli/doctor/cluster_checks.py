"""Checks of a Kubernetes cluster: version, namespace, kinds of objects, their names, rights.

Nothing is changed, and the values of Secrets are not read: only their metadata is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from components.cli.cluster.tenancy import PIPELINES_NAMESPACE
from components.cli.doctor.api_server import ApiServer
from components.cli.doctor.class_checks import class_checks
from components.cli.doctor.findings import Finding
from components.cli.doctor.gpu_checks import gpu_check
from components.cli.doctor.pace_check import pace_check
from components.cli.doctor.receivers import Resolve, resolved
from components.cli.doctor.retry_check import retry_check
from components.cli.doctor.room_checks import FEWEST_NODES, KUEUE, room_checks
from components.cli.doctor.way_checks import way_checks
from components.cli.json_documents import Json, nested
from components.cli.package.profiles import Profile
from components.contracts.recipe import Recipe
from components.errors import UserError
from components.train.launch.cluster_api import GROUP, PLURAL
from components.train.launch.cluster_api import VERSION as TRAINER_VERSION
from components.train.launch.trainjob import RUNTIME

OLDEST_KUBERNETES = (1, 30)
"""As manifests/README.md says."""
# Verb, API group, resource, name.
RUN_RIGHTS = (
    ("create", "argoproj.io", "workflowtaskresults", ""),
    ("patch", "argoproj.io", "workflowtaskresults", ""),
    ("get", "", "configmaps", "kfp-launcher"),
    ("get", "", "secrets", "mlpipeline-minio-artifact"),
)
"""Rights of Argo's executor and KFP's launcher, in every pod of a run."""
TRAIN_RIGHTS = (
    *((verb, GROUP, PLURAL, "") for verb in ("create", "get", "delete")),
    ("list", "", "pods", ""),
    ("list", "", "events", ""),
    ("get", "", "pods/log", ""),
)
"""Rights of `train` with train.num_nodes > 1."""
_TRAINER_FIELD = "runtimePatches"
APPLY = "kubectl apply -k manifests/overlays/…"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


def cluster_checks(
    api: ApiServer,
    namespace: str,
    profile: Profile,
    account: str,
    *,
    as_account: bool,
    recipe: Recipe | None = None,
    resolve: Resolve = resolved,
) -> Iterator[Finding]:
    """Yield findings about everything that a run with this profile needs of the cluster.

    Args:
        api: The API server.
        namespace: Namespace of the runs.
        profile: Says which objects and GPUs a run names.
        account: Service account of the runs.
        as_account: Ask for its rights by impersonation, for which the user needs the permission;
            else for the rights of who we are.
        recipe: Says which addresses a run speaks to, and the number of nodes of its trainings;
            None: what only a recipe asks for is left out.
        resolve: Looks names outside the cluster up.

    Raises:
        UserError: The server cannot be asked.
        Transient: It cannot answer now.
    """
    api.account = f"system:serviceaccount:{namespace}:{account}" if as_account else ""
    yield _check_version(api)
    yield from _check_namespace(api, namespace)
    yield from _check_kinds(api, namespace, profile)
    yield from _check_objects(api, namespace, profile, account)
    yield from class_checks(api, profile)
    yield from _check_rights(api, namespace, profile, account)
    num_nodes = recipe.train.num_nodes if recipe is not None else FEWEST_NODES
    yield from room_checks(api, namespace, profile, max(num_nodes, FEWEST_NODES))
    yield from way_checks(api, namespace, profile, recipe, resolve)
    yield retry_check(api, PIPELINES_NAMESPACE)
    yield pace_check(api, PIPELINES_NAMESPACE)
    if profile.gpu:
        yield gpu_check(api, profile)


def _check_version(api: ApiServer) -> Finding:
    status, document = api.ask("/version")
    version = str(document.get("gitVersion", ""))
    match = re.match(r"v?(\d+)\.(\d+)", version)
    if status != 200 or match is None:
        raise UserError(
            f"{api.server} does not say its version; is it a Kubernetes API server? Check "
            "KUBECONFIG"
        )
    major_and_minor = (int(match[1]), int(match[2]))
    if major_and_minor < OLDEST_KUBERNETES:
        cure = f"upgrade to {'.'.join(map(str, OLDEST_KUBERNETES))} or newer"
        return Finding("kubernetes", "failed", f"{version} at {api.server}", cure)
    return Finding("kubernetes", "ok", f"{version} at {api.server}")


def _check_namespace(api: ApiServer, namespace: str) -> Iterator[Finding]:
    status, document = api.ask(f"/api/v1/namespaces/{namespace}")
    if status == 404:
        yield Finding(
            "namespace", "failed", f"there is no namespace {namespace}", APPLY
        )
        return
    if status != 200:
        yield Finding(
            "namespace", "skipped", f"{namespace}: no permission to get it ({status})"
        )
        return
    if namespace == PIPELINES_NAMESPACE:
        # Its own pods need not pass `restricted`.
        yield Finding(
            "namespace", "ok", f"{namespace} is that of Kubeflow Pipelines itself"
        )
        return
    # All pods of a run pass `restricted`. Where it is not enforced, others need not.
    labels = nested(document, "metadata", "labels")
    if labels.get("pod-security.kubernetes.io/enforce") == "restricted":
        yield Finding(
            "namespace", "ok", f"{namespace} enforces Pod Security restricted"
        )
        return
    yield Finding(
        "namespace",
        "warning",
        f"{namespace} does not enforce Pod Security restricted",
        f"kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=restricted",
    )


def _check_kinds(api: ApiServer, namespace: str, profile: Profile) -> Iterator[Finding]:
    """Yield findings about custom resources, by the API's own discovery.

    Everybody may read that, unlike the CustomResourceDefinitions.
    """
    trainer_api = f"{GROUP}/{TRAINER_VERSION}"
    # Kubeflow Pipelines carries a run out as a Workflow of Argo.
    needed = [("argoproj.io/v1alpha1", "workflows", "install Kubeflow Pipelines 2.17")]
    queue = ""
    if profile.nodes:
        queue = profile.nodes.queue
        needed.append((trainer_api, PLURAL, "install Kubeflow Trainer 2.3"))
        needed.append((trainer_api, "trainingruntimes", APPLY))
    if queue:
        cure = "install Kueue 0.15, or empty nodes.queue"
        needed.append((KUEUE, "localqueues", cure))
    missing = set()
    for api_version, resource, cure in needed:
        if api_version in missing:
            continue
        status, document = api.ask(f"/apis/{api_version}")
        kinds = document.get("resources") or ()
        served = [kind.get("name") for kind in kinds]
        if status != 200 or resource not in served:
            other_versions = _other_versions(api, api_version.partition("/")[0])
            problem = (
                f"the cluster serves no {resource} of {api_version}{other_versions}"
            )
            yield Finding(f"kind {resource}", "failed", problem, cure)
            missing.add(api_version)
            continue
        yield Finding(f"kind {resource}", "ok", f"{api_version} is served")
    if profile.nodes and trainer_api not in missing:
        yield from _check_trainer(api, trainer_api)
        path = f"/apis/{trainer_api}/namespaces/{namespace}/trainingruntimes/{RUNTIME}"
        status, _ = api.ask(path)
        yield _presence(f"trainingruntime {RUNTIME}", status, namespace, APPLY)
    if queue and KUEUE not in missing:
        path = f"/apis/{KUEUE}/namespaces/{namespace}/localqueues/{queue}"
        status, _ = api.ask(path)
        cure = (
            f"{APPLY} with the component kueue, or another nodes.queue in the profile"
        )
        yield _presence(f"localqueue {queue}", status, namespace, cure)


def _check_trainer(api: ApiServer, trainer_api: str) -> Iterator[Finding]:
    """Yield a failure if the TrainJobs of this Trainer do not have the field that we set.

    Trainer 2.1 serves the same version of the API without it, and refuses our TrainJobs as they are
    created.
    """
    status, document = api.ask(f"/openapi/v3/apis/{trainer_api}")
    schemas = nested(document, "components", "schemas")
    for name, schema in schemas.items():
        if status != 200 or not name.endswith(".TrainJob"):
            continue
        fields = nested(schema, "properties", "spec", "properties")
        if _TRAINER_FIELD not in fields:
            problem = f"its TrainJobs have no field spec.{_TRAINER_FIELD}: it is older than 2.3"
            yield Finding("trainer", "failed", problem, "install Kubeflow Trainer 2.3")


def _other_versions(api: ApiServer, group: str) -> str:
    status, document = api.ask(f"/apis/{group}")
    if status != 200:
        return ""
    rows = document.get("versions") or ()
    versions = [str(row.get("version")) for row in rows]
    return f", but {', '.join(versions)}" if versions else ""


def _check_objects(
    api: ApiServer, namespace: str, profile: Profile, account: str
) -> Iterator[Finding]:
    """Yield findings about the objects that the pods name."""
    base = f"/api/v1/namespaces/{namespace}"
    # Where the account is missing, a run fails after 45 s with `root-driver: failed` and no reason:
    # that stands in the messages of the Workflow alone.
    status, account_object = api.ask(f"{base}/serviceaccounts/{account}")
    yield _presence(f"serviceaccount {account}", status, namespace, APPLY)
    annotations = nested(account_object, "metadata", "annotations")
    role = annotations.get("eks.amazonaws.com/role-arn", "")
    for secret in profile.secrets:
        status, _ = api.ask(f"{base}/secrets/{secret}", accept=_METADATA_ONLY)
        # A role of the cloud takes the place of keys in a Secret.
        if status == 404 and role:
            yield Finding(
                f"secret {secret}", "ok", f"is not there; pods have the role {role}"
            )
            continue
        cure = (
            f"kubectl -n {namespace} create secret generic {secret} --from-literal=… "
            "(manifests/README.md), or a role"
        )
        yield _presence(f"secret {secret}", status, namespace, cure)
    for secret in profile.pull_secrets:
        status, _ = api.ask(f"{base}/secrets/{secret}", accept=_METADATA_ONLY)
        cure = f"kubectl -n {namespace} create secret docker-registry {secret} …"
        yield _presence(f"secret {secret}", status, namespace, cure)
    check = f"configmap {profile.config_map}"
    status, config_map = api.ask(f"{base}/configmaps/{profile.config_map}")
    yield _presence(check, status, namespace, APPLY)
    if status == 200 and "AWS_REGION" not in nested(config_map, "data"):
        yield Finding(
            check, "warning", "has no AWS_REGION", "add it (manifests/base/store.yaml)"
        )


def _presence(check: str, status: int, namespace: str, cure: str) -> Finding:
    """Return the finding for the status of a GET of one object."""
    match status:
        case 200:
            return Finding(check, "ok", f"is in namespace {namespace}")
        case 404:
            return Finding(check, "failed", f"is not in namespace {namespace}", cure)
    return Finding(check, "skipped", f"no permission to look ({status})")


def _check_rights(
    api: ApiServer, namespace: str, profile: Profile, account: str
) -> Iterator[Finding]:
    needed = [*RUN_RIGHTS, *(TRAIN_RIGHTS if profile.nodes else ())]
    missing = []
    for verb, group, resource, name in needed:
        review = _access_review(namespace, verb, group, resource, name)
        status, document = api.ask(
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review
        )
        # Everybody may ask for his own rights: refused is the impersonation.
        if status == 403 and api.account:
            cure = f"run doctor in a pod of account {account}"
            yield Finding(
                "rights", "skipped", f"no permission to ask as {account}", cure
            )
            return
        if not nested(document, "status").get("allowed"):
            qualified_resource = f"{resource}.{group}" if group else resource
            right = f"{verb} {qualified_resource} {name}"
            missing.append(right.rstrip())
    if missing:
        cure = f"{APPLY} (manifests/base/accounts.yaml), or bind {account} to a Role that allows it"
        problem = f"{account} may not: {', '.join(missing)}"
        yield Finding("rights", "failed", problem, cure)
    else:
        observation = f"{account} may do all {len(needed)} things that its pods do"
        yield Finding("rights", "ok", observation)


def _access_review(
    namespace: str, verb: str, group: str, resource: str, name: str
) -> Json:
    kind, _, subresource = resource.partition("/")
    attributes = {
        "namespace": namespace,
        "verb": verb,
        "group": group,
        "resource": kind,
        "subresource": subresource,
        "name": name,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
