"""Checks of the ways from the pods of a run to what it speaks to, by the network policies.

A way that no policy opens costs a run hours: the step that needs it waits for an address that never
answers. Nothing is sent: policies are read, so it does not matter from where `doctor` looks.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import yaml

from components.cli.cluster.tenancy import PIPELINES_NAMESPACE
from components.cli.doctor.api_server import ApiServer
from components.cli.doctor.destinations import (
    Destination,
    addresses_in_secrets,
    destinations,
    hub_inputs,
)
from components.cli.doctor.findings import Finding, Status, failure
from components.cli.doctor.network_policies import End, Port, is_open
from components.cli.doctor.receivers import Receiver, Resolve, of_service, receivers
from components.cli.json_documents import Json, nested
from components.cli.needed_variables import needs_of
from components.cli.package.profiles import STEPS, Profile
from components.contracts.recipe import Recipe
from components.errors import UserError

_A_PUBLIC_ADDRESS = "8.8.8.8"
"""Stands for any: nothing is sent there."""
_TRUE = ("1", "true", "yes", "on")
_OPENSHIFT_DNS = ("openshift-dns", "dns-default")
_DNS = (_OPENSHIFT_DNS, ("kube-system", "kube-dns"))
_KFP_STORES = ("minio-service", "seaweedfs")
_STEP_LABELS = {"pipelines.kubeflow.org/v2_component": "true"}
_NODE_LABELS = {
    "jobset.sigs.k8s.io/replicatedjob-name": "node",
    "trainer.kubeflow.org/trainjob-ancestor-step": "trainer",
    "app.kubernetes.io/component": "train",
}


@dataclass(frozen=True)
class _Sender:
    name: str
    end: End


def way_checks(
    api: ApiServer,
    namespace: str,
    profile: Profile,
    recipe: Recipe | None,
    resolve: Resolve,
) -> Iterator[Finding]:
    """Yield a finding for each address that a run speaks to.

    Args:
        api: The API server.
        namespace: Of the runs.
        profile: Says which settings and labels the steps get.
        recipe: The recipe; None: without what only a recipe asks for.
        resolve: Looks names outside the cluster up.
    """
    check = "network policies"
    policies = _Policies(api, namespace)
    if policies.own is None:
        yield Finding(check, "skipped", f"no permission to list those of {namespace}")
        return
    senders = _Senders(namespace, policies.labels_of(namespace), profile)
    ways = _Ways(api, namespace, policies, senders, resolve)
    path = f"/api/v1/namespaces/{namespace}/configmaps/{profile.config_map}"
    status, config_map = api.ask(path)
    if status == 200:
        settings = {
            key: str(value) for key, value in nested(config_map, "data").items()
        }
        if recipe is not None:
            yield from _check_offline(recipe, profile, settings)
            yield from _check_variables(recipe, profile, settings)
        for destination in destinations(recipe, profile, settings):
            yield ways.check(destination)
    yield from ways.check_kubeflow()
    for variable, secret in addresses_in_secrets(recipe, profile):
        yield Finding(
            f"way to {variable}",
            "skipped",
            f"the address is in Secret {secret}, which is not read",
            "see that a component opens it: outside-store public addresses on 443, egress others",
        )


def _check_offline(
    recipe: Recipe, profile: Profile, settings: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield a failure if a recipe takes from the hub what the settings forbid to fetch."""
    switch = "HF_HUB_OFFLINE"
    is_off = settings.get(switch, "").lower() in _TRUE and switch in profile.config_keys
    from_hub = hub_inputs(recipe)
    if is_off and from_hub:
        key, uri = from_hub[0]
        problem = f"{key}: {uri}, and {switch} is set in ConfigMap {profile.config_map}"
        cure = "list the component hub in your overlay, or copy it to the store and name that"
        yield Finding("hub", "failed", problem, cure)


def _check_variables(
    recipe: Recipe, profile: Profile, settings: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield a failure for each variable that a step cannot do without and nothing holds."""
    in_secrets = {key for keys in profile.secrets.values() for key in keys}
    for need in needs_of(recipe):
        if need.is_required and need.variable not in {*settings, *in_secrets}:
            yield Finding(
                f"variable {need.variable}",
                "failed",
                f"{need.key} needs it, and ConfigMap {profile.config_map} does not have it",
                f"put {need.meaning} there by a patch of your overlay (manifests/README.md)",
            )


class _Policies:
    """The network policies of namespaces, each asked for once."""

    def __init__(self, api: ApiServer, namespace: str) -> None:
        self._api = api
        self._policies: dict[str, list[Json] | None] = {}
        self._labels: dict[str, dict[str, str]] = {}
        self.own = self.of(namespace)

    def of(self, namespace: str) -> list[Json] | None:
        """Return the policies of a namespace; None if they may not be listed."""
        if namespace not in self._policies:
            path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
            status, document = self._api.ask(path)
            self._policies[namespace] = (
                (document.get("items") or []) if status == 200 else None
            )
        return self._policies[namespace]

    def labels_of(self, namespace: str) -> dict[str, str]:
        """Return the labels of a namespace."""
        if namespace not in self._labels:
            _, document = self._api.ask(f"/api/v1/namespaces/{namespace}")
            name_label = {"kubernetes.io/metadata.name": namespace}
            self._labels[namespace] = {
                **name_label,
                **nested(document, "metadata", "labels"),
            }
        return self._labels[namespace]


class _Senders:
    """The pods of a run, as policies see them."""

    def __init__(
        self, namespace: str, namespace_labels: Mapping[str, str], profile: Profile
    ) -> None:
        self._pod = End(namespace=namespace, namespace_labels=namespace_labels)
        self._profile = profile

    def of(self, destination: Destination) -> Iterator[_Sender]:
        """Yield the pods that speak to a destination."""
        part = {"app.kubernetes.io/part-of": "ratchet"}
        for step in destination.steps or STEPS:
            labels = {
                **part,
                "app.kubernetes.io/component": step,
                **self._profile.labels,
            }
            yield _Sender(step, replace(self._pod, labels={**labels, **_STEP_LABELS}))
        if destination.from_nodes and self._profile.nodes is not None:
            yield _Sender(
                "nodes of train", replace(self._pod, labels={**part, **_NODE_LABELS})
            )


@dataclass(frozen=True)
class _Obstacle:
    status: Status
    reason: str
    cure: str


class _Ways:
    """Ways from the pods of a run, held against the policies of both ends."""

    def __init__(
        self,
        api: ApiServer,
        namespace: str,
        policies: _Policies,
        senders: _Senders,
        resolve: Resolve,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._policies = policies
        self._senders = senders
        self._resolve = resolve

    def check(self, destination: Destination) -> Finding:
        """Return whether the steps of a destination reach it."""
        try:
            host, number = destination.host_and_port
        except UserError as error:
            return failure(f"way to {destination.purpose}", error)
        port = Port(number, destination.protocol)
        behind = receivers(self._api, self._namespace, host, port, self._resolve)
        if not behind and destination.component != "egress":
            # The hub and AWS are public, and a machine behind a proxy may know no names outside.
            behind = [Receiver(End(_A_PUBLIC_ADDRESS), port)]
        if not behind:
            problem = f"{host} is not known here ({destination.reason})"
            cure = "correct the address, if pods do not know it either"
            return Finding(f"way to {destination.purpose}", "warning", problem, cure)
        return self._judged(destination, f"{host}:{number}", behind)

    def check_kubeflow(self) -> Iterator[Finding]:
        """Yield the ways to what Kubernetes and Kubeflow Pipelines themselves need."""
        for namespace, name in _DNS:
            component = "openshift" if namespace == _OPENSHIFT_DNS[0] else "egress"
            dns = Destination("DNS", "every step", "", (), component, from_nodes=True)
            found = self._service(
                replace(dns, protocol="UDP"), namespace, name, Port(53, "UDP")
            )
            if found is not None:
                yield found
                break
        apis = (
            (
                Destination("the API server", "every step", ""),
                "default",
                "kubernetes",
                443,
            ),
            (_pipelines("its API"), PIPELINES_NAMESPACE, "ml-pipeline", 8887),
            (
                _pipelines("its metadata"),
                PIPELINES_NAMESPACE,
                "metadata-grpc-service",
                8080,
            ),
        )
        for destination, namespace, name, number in apis:
            found = self._service(destination, namespace, name, Port(number))
            if found is not None:
                yield found
        yield from self._check_artifacts()

    def _check_artifacts(self) -> Iterator[Finding]:
        """Yield the way to the store of Kubeflow Pipelines, where its pointers go."""
        path = f"/api/v1/namespaces/{self._namespace}/configmaps/kfp-launcher"
        _, config_map = self._api.ask(path)
        endpoint = _artifact_endpoint(nested(config_map, "data"))
        if endpoint:
            own_store = replace(
                _pipelines("its store"), reason="ConfigMap kfp-launcher"
            )
            yield self.check(replace(own_store, url=endpoint))
            return
        for name in _KFP_STORES:
            own_store = _pipelines("its store")
            found = self._service(own_store, PIPELINES_NAMESPACE, name, Port(9000))
            if found is not None:
                yield found
                return

    def _service(
        self, destination: Destination, namespace: str, name: str, port: Port
    ) -> Finding | None:
        """Return whether steps reach a Service; None if it is not there, or not to be seen."""
        behind = of_service(self._api, namespace, name, port)
        if not behind:
            return None
        return self._judged(destination, f"{name}.{namespace}:{port.number}", behind)

    def _judged(
        self, destination: Destination, address: str, behind: list[Receiver]
    ) -> Finding:
        check = f"way to {destination.purpose}"
        worst: Finding | None = None
        for receiver in behind:
            for sender in self._senders.of(destination):
                obstacle = self._obstacle(destination, sender, receiver)
                if obstacle is None or (
                    worst is not None and obstacle.status == "warning"
                ):
                    continue
                reason = f"{obstacle.reason} ({destination.reason})"
                found = f"{sender.name} does not reach {address}: {reason}"
                worst = Finding(check, obstacle.status, found, obstacle.cure)
                if obstacle.status == "failed":
                    return worst
        senders = ", ".join(destination.steps) or "all steps"
        return worst or Finding(check, "ok", f"policies let {senders} reach {address}")

    def _obstacle(
        self, destination: Destination, sender: _Sender, receiver: Receiver
    ) -> _Obstacle | None:
        """Return which side's policies close a way; None if both let it."""
        end = receiver.end
        own = self._policies.own or []
        if not is_open(own, "Egress", sender.end, end, receiver.port):
            cure = _cure(destination, receiver)
            if end.address and is_open(
                own, "Egress", sender.end, End(end.address), receiver.port
            ):
                reason = "some network plugins do not match pods by an ipBlock"
                return _Obstacle("warning", reason, cure)
            return _Obstacle(
                "failed", f"no network policy of {self._namespace} opens it", cure
            )
        theirs = self._policies.of(end.namespace) if end.namespace else None
        # What may not be listed is not judged.
        if theirs and not is_open(theirs, "Ingress", end, sender.end, receiver.port):
            reason = f"no network policy of {end.namespace} lets it in"
            cure = f"add one there, for pods of namespace {self._namespace}"
            return _Obstacle("failed", reason, cure)
        return None


def _pipelines(part: str) -> Destination:
    return Destination(f"Kubeflow Pipelines, {part}", "every step", "")


def _artifact_endpoint(launcher: Json) -> str:
    """Return the URL of another store of Kubeflow Pipelines than that of its installation."""
    root = str(launcher.get("defaultPipelineRoot") or "minio://")
    scheme, _, _ = root.partition("://")
    try:
        providers = yaml.safe_load(launcher.get("providers") or "{}")
    except yaml.YAMLError:
        providers = {}
    default = (
        nested(providers, scheme, "default") if isinstance(providers, dict) else {}
    )
    endpoint = str(default.get("endpoint") or "")
    if not endpoint:
        return "https://s3.amazonaws.com" if scheme == "s3" else ""
    if "://" in endpoint:
        return endpoint
    is_plain = str(default.get("disableSSL") or "").lower() == "true"
    return f"http://{endpoint}" if is_plain else f"https://{endpoint}"


def _cure(destination: Destination, receiver: Receiver) -> str:
    """Return which component of the manifests opens a way, and how."""
    address = receiver.end.address
    is_public = not receiver.end.namespace and ipaddress.ip_address(address).is_global
    if destination.component != "egress" and (
        is_public or destination.protocol == "UDP"
    ):
        return (
            f"list the component {destination.component} in your overlay, and apply it"
        )
    if is_public and receiver.port.number == 443:
        return "list the component outside-store, or egress with its addresses, and apply it"
    return (
        "list the component egress in your overlay with the operation "
        f"{egress_operation(receiver)} (manifests/README.md), and apply it"
    )


def egress_operation(receiver: Receiver) -> str:
    """Return the operation of a patch of `to-named-addresses` that opens the way to a receiver."""
    end = receiver.end
    peer = f"{{ipBlock: {{cidr: {end.address}/{128 if ':' in end.address else 32}}}}}"
    if end.namespace:
        labels = ", ".join(
            f"{key}: {value!r}" for key, value in sorted(receiver.selector.items())
        )
        by_name = f"{{matchLabels: {{kubernetes.io/metadata.name: {end.namespace}}}}}"
        peer = f"{{namespaceSelector: {by_name}, podSelector: {{matchLabels: {{{labels}}}}}}}"
    port = f"{{protocol: {receiver.port.protocol}, port: {receiver.port.number}}}"
    return (
        f"{{op: add, path: /spec/egress/-, value: {{to: [{peer}], ports: [{port}]}}}}"
    )
