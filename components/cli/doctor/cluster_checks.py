"""What `doctor` looks at on a Kubernetes cluster: rights, kinds of objects and their versions,
names, GPUs.

Nothing is changed, and the values of Secrets are not read: of them only metadata is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from components.cli.doctor.findings import Finding
from components.cli.package.profiles import Profile
from components.errors import Transient, UserError
from components.train.launch.cluster_api import GROUP, PASSING, PLURAL, Cluster, LaunchPatience
from components.train.launch.cluster_api import VERSION as TRAINER_VERSION
from components.train.launch.trainjob import RUNTIME

Json = dict[str, Any]
OLDEST = (1, 30)
"""Of Kubernetes, as manifests/README.md says."""
RUN_RIGHTS = (
    ("create", "argoproj.io", "workflowtaskresults", ""),
    ("patch", "argoproj.io", "workflowtaskresults", ""),
    ("get", "", "configmaps", "kfp-launcher"),
    ("get", "", "secrets", "mlpipeline-minio-artifact"),
)
"""What Argo's executor and KFP's launcher do in every pod of a run: verb, API group, resource,
name."""
TRAIN_RIGHTS = (
    *((verb, GROUP, PLURAL, "") for verb in ("create", "get", "delete")),
    ("list", "", "pods", ""),
    ("list", "", "events", ""),
    ("get", "", "pods/log", ""),
)
"""What `train` does with train.num_nodes > 1."""
APPLY = "kubectl apply -k manifests/overlays/…"


class ApiServer(Cluster):
    """The API server, asked plainly."""

    account = ""
    """`system:serviceaccount:<namespace>:<name>` to ask as; empty: as who we are."""

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], patience: LaunchPatience | None = None
    ) -> ApiServer:
        """The cluster this pod runs in, else the one of KUBECONFIG. Raises UserError if there is
        neither."""
        try:
            made = super().from_environment(environment, patience)
        except UserError as error:
            why = str(error.__cause__ or error)
            raise UserError(
                f"no cluster can be spoken to ({why}); correct KUBECONFIG, or unset it"
            ) from None
        assert isinstance(made, cls)
        return made

    def ask(
        self, path: str, body: Json | None = None, *, accept: str = "application/json"
    ) -> tuple[int, Json]:
        """(HTTP status, document) of a GET, or of a POST of `body`. Raises Transient, UserError (no
        TLS, 401)."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        headers = {
            "Accept": accept,
            **({"Content-Type": "application/json"} if body is not None else {}),
        }
        if self.account and body is not None:
            headers["Impersonate-User"] = self.account
        limits = (self.patience.connect_seconds, self.patience.answer_seconds)
        try:
            response = self._core.api_client.call_api(
                path,
                "GET" if body is None else "POST",
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _request_timeout=limits,
                _preload_content=False,
                _return_http_data_only=True,
            )
            return 200, _document(response.data)
        except ApiException as error:
            if error.status == 401:
                raise UserError(
                    f"{self.server} refuses these credentials (401); renew those of KUBECONFIG"
                ) from None
            if error.status == 0:
                raise UserError(
                    f"no trusted TLS connection to {self.server}; check its certificate authority"
                ) from None
            if error.status in PASSING:
                raise Transient(
                    f"{self.server} cannot answer now ({error.status}); try again"
                ) from None
            return int(error.status), _document(error.body)
        except (HTTPError, OSError) as error:
            raise UserError(
                f"{self.server} cannot be reached ({type(error).__name__}); check KUBECONFIG, the network and proxies"
            ) from None


def _document(body: Any) -> Json:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def cluster_checks(
    api: ApiServer, namespace: str, profile: Profile, account: str, *, as_account: bool
) -> Iterator[Finding]:
    """Everything that a run with this profile needs of the cluster. Rights are asked for as
    `account`, which takes the permission to impersonate it, or as who we are. Raises as
    `ApiServer.ask`."""
    api.account = f"system:serviceaccount:{namespace}:{account}" if as_account else ""
    yield _version(api)
    yield from _namespace(api, namespace)
    yield from _kinds(api, namespace, profile)
    yield from _names(api, namespace, profile, account)
    yield from _rights(api, namespace, profile, account)
    if profile.gpu:
        yield from _gpus(api, namespace, profile)


def _version(api: ApiServer) -> Finding:
    status, found = api.ask("/version")
    words = re.match(r"v?(\d+)\.(\d+)", str(found.get("gitVersion", "")))
    if status != 200 or words is None:
        raise UserError(
            f"{api.server} does not say its version; is it a Kubernetes API server? Check KUBECONFIG"
        )
    if (int(words[1]), int(words[2])) < OLDEST:
        cure = f"upgrade to {'.'.join(map(str, OLDEST))} or newer"
        return Finding("kubernetes", "failed", f"{found['gitVersion']} at {api.server}", cure)
    return Finding("kubernetes", "ok", f"{found['gitVersion']} at {api.server}")


def _namespace(api: ApiServer, namespace: str) -> Iterator[Finding]:
    status, found = api.ask(f"/api/v1/namespaces/{namespace}")
    if status == 404:
        yield Finding("namespace", "failed", f"there is no namespace {namespace}", APPLY)
        return
    if status != 200:
        yield Finding("namespace", "skipped", f"{namespace}: no permission to get it ({status})")
        return
    labels = found.get("metadata", {}).get("labels") or {}
    enforced = labels.get("pod-security.kubernetes.io/enforce")
    if enforced != "restricted":
        cure = f"kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=restricted"
        yield Finding(
            "namespace", "warning", f"{namespace} does not enforce Pod Security restricted", cure
        )
    else:
        yield Finding("namespace", "ok", f"{namespace} enforces Pod Security restricted")


def _kinds(api: ApiServer, namespace: str, profile: Profile) -> Iterator[Finding]:
    """Custom resources, by the API's own discovery, which everybody may read."""
    wanted = [("argoproj.io/v1alpha1", "workflows", "install Kubeflow Pipelines 2.17")]
    if profile.nodes:
        trainer = f"{GROUP}/{TRAINER_VERSION}"
        wanted += [
            (trainer, PLURAL, "install Kubeflow Trainer 2.3"),
            (trainer, "trainingruntimes", APPLY),
        ]
        if profile.nodes.queue:
            wanted.append(
                (
                    "kueue.x-k8s.io/v1beta2",
                    "localqueues",
                    "install Kueue 0.15, or empty nodes.queue",
                )
            )
    for version, resource, cure in wanted:
        status, found = api.ask(f"/apis/{version}")
        served = [one.get("name") for one in found.get("resources") or ()]
        if status == 200 and resource in served:
            yield Finding(f"kind {resource}", "ok", f"{version} is served")
        else:
            others = _other_versions(api, version.partition("/")[0])
            text = f"the cluster serves no {resource} of {version}{others}"
            yield Finding(f"kind {resource}", "failed", text, cure)
            return
    if profile.nodes:
        yield _there(
            api,
            f"/apis/{GROUP}/{TRAINER_VERSION}/namespaces/{namespace}/trainingruntimes/{RUNTIME}",
            APPLY,
        )
        if profile.nodes.queue:
            path = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{namespace}/localqueues/{profile.nodes.queue}"
            yield _there(
                api,
                path,
                f"{APPLY} with the component kueue, or another nodes.queue in the profile",
            )


def _other_versions(api: ApiServer, group: str) -> str:
    status, found = api.ask(f"/apis/{group}")
    versions = (
        [str(one.get("version")) for one in found.get("versions") or ()] if status == 200 else []
    )
    return f", but {', '.join(versions)}" if versions else ""


def _names(api: ApiServer, namespace: str, profile: Profile, account: str) -> Iterator[Finding]:
    """Objects that the pods name."""
    where = f"/api/v1/namespaces/{namespace}"
    status, found = api.ask(f"{where}/serviceaccounts/{account}")
    yield _finding(f"serviceaccount {account}", status, namespace, APPLY)
    role = (found.get("metadata", {}).get("annotations") or {}).get(
        "eks.amazonaws.com/role-arn", ""
    )
    for secret in profile.secrets:
        status, _ = _metadata(api, f"{where}/secrets/{secret}")
        if status == 404 and role:
            yield Finding(f"secret {secret}", "ok", f"is not there; pods have the role {role}")
            continue
        cure = f"kubectl -n {namespace} create secret generic {secret} --from-literal=… (manifests/README.md), or a role"
        yield _finding(f"secret {secret}", status, namespace, cure)
    for secret in profile.pull_secrets:
        status, _ = _metadata(api, f"{where}/secrets/{secret}")
        yield _finding(
            f"secret {secret}",
            status,
            namespace,
            f"kubectl -n {namespace} create secret docker-registry {secret} …",
        )
    status, found = api.ask(f"{where}/configmaps/{profile.config_map}")
    yield _finding(f"configmap {profile.config_map}", status, namespace, APPLY)
    if status == 200 and "AWS_REGION" not in (found.get("data") or {}):
        cure = "add it (manifests/base/store.yaml)"
        yield Finding(f"configmap {profile.config_map}", "warning", "has no AWS_REGION", cure)


def _metadata(api: ApiServer, path: str) -> tuple[int, Json]:
    return api.ask(path, accept="application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")


def _there(api: ApiServer, path: str, cure: str) -> Finding:
    kind, name = path.rstrip("/").split("/")[-2:]
    status, _ = api.ask(path)
    return _finding(
        f"{kind.removesuffix('s')} {name}",
        status,
        path.split("/namespaces/")[1].split("/")[0],
        cure,
    )


def _finding(what: str, status: int, namespace: str, cure: str) -> Finding:
    if status == 200:
        return Finding(what, "ok", f"is in namespace {namespace}")
    if status == 404:
        return Finding(what, "failed", f"is not in namespace {namespace}", cure)
    return Finding(what, "skipped", f"no permission to look ({status})")


def _rights(api: ApiServer, namespace: str, profile: Profile, account: str) -> Iterator[Finding]:
    """By SelfSubjectAccessReview, as the account of the runs where we may speak as it."""
    wanted = [*RUN_RIGHTS, *(TRAIN_RIGHTS if profile.nodes else ())]
    missing = []
    for verb, group, resource, name in wanted:
        kind, _, part = resource.partition("/")
        attributes = {
            "namespace": namespace,
            "verb": verb,
            "group": group,
            "resource": kind,
            "subresource": part,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {**attributes, "name": name}},
        }
        status, found = api.ask("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        if status == 403 and api.account:
            yield Finding(
                "rights",
                "skipped",
                f"no permission to ask as {account}",
                f"run doctor in a pod of account {account}",
            )
            return
        if not (found.get("status") or {}).get("allowed"):
            missing.append(
                f"{verb} {resource}{f'.{group}' if group else ''}{f' {name}' if name else ''}"
            )
    if missing:
        cure = f"{APPLY} (manifests/base/accounts.yaml), or bind {account} to a Role that allows it"
        yield Finding("rights", "failed", f"{account} may not: {', '.join(missing)}", cure)
    else:
        yield Finding("rights", "ok", f"{account} may do all {len(wanted)} things that its pods do")


def _gpus(api: ApiServer, namespace: str, profile: Profile) -> Iterator[Finding]:
    """Nodes with enough GPUs, and room for them in the namespace's quota."""
    steps = {step: profile.resources(step).gpus for step in ("generate", "train", "evaluate")}
    wanted = max(*steps.values(), profile.train_gpus)
    status, found = api.ask("/api/v1/nodes")
    if status != 200:
        yield Finding("GPUs of the nodes", "skipped", f"no permission to list nodes ({status})")
    else:
        counts = [
            _gpus_of(node, profile.gpu) for node in found.get("items") or () if _fits(node, profile)
        ]
        enough = sum(count >= wanted for count in counts)
        if enough:
            yield Finding(
                "GPUs of the nodes", "ok", f"{enough} nodes have {wanted} or more of {profile.gpu}"
            )
        else:
            most = max(counts, default=0)
            cure = "take a smaller profile, add such a node, or check labels and taints (node_selector, tolerations)"
            yield Finding(
                "GPUs of the nodes",
                "failed",
                f"no node has {wanted} of {profile.gpu}, at most {most}",
                cure,
            )
    status, found = api.ask(f"/api/v1/namespaces/{namespace}/resourcequotas")
    key = f"requests.{profile.gpu}"
    for quota in found.get("items") or () if status == 200 else ():
        hard = (quota.get("spec", {}).get("hard") or {}).get(key)
        if hard is not None and int(hard) < wanted:
            cure = f"raise {key} (manifests/components/nvidia-gpu)"
            text = (
                f"{quota['metadata']['name']} allows {hard} of {profile.gpu}, a step takes {wanted}"
            )
            yield Finding("GPUs of the quota", "failed", text, cure)


def _gpus_of(node: Json, resource: str) -> int:
    return int((node.get("status", {}).get("allocatable") or {}).get(resource, 0))


def _fits(node: Json, profile: Profile) -> bool:
    """Whether the node has the labels that are asked for, and no taint that the profile does not
    put up with."""
    labels = node.get("metadata", {}).get("labels") or {}
    spec = node.get("spec") or {}
    taints = [
        one for one in spec.get("taints") or () if one.get("effect") in ("NoSchedule", "NoExecute")
    ]
    return (
        not spec.get("unschedulable")
        and profile.node_selector.items() <= labels.items()
        and all(_tolerated(taint, profile) for taint in taints)
    )


def _tolerated(taint: Mapping[str, Any], profile: Profile) -> bool:
    return any(
        one.key in ("", taint["key"])
        and one.effect in ("", taint["effect"])
        and (one.operator == "Exists" or one.value == taint.get("value", ""))
        for one in profile.tolerations
    )
