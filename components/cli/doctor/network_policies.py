"""Network policies of a cluster, read as their reference says (networking.k8s.io/v1).

A pod that no policy selects for a direction is open in it. One that any policy selects may do what
some of them allow, and nothing else. A connection needs both: the sender's egress and the
receiver's ingress.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from components.cli.json_documents import Json, nested

Direction = Literal["Egress", "Ingress"]
_PEERS = {"Egress": "to", "Ingress": "from"}


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod, or an address outside the pods."""

    address: str = ""
    """IP address; empty for a pod that is not there yet."""
    namespace: str = ""
    """Of the pod; empty for an address outside the pods."""
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    named_ports: Mapping[str, int] = field(default_factory=dict)
    """Ports of the pod's containers by their names."""


@dataclass(frozen=True)
class Port:
    """A port of the receiver."""

    number: int
    protocol: str = "TCP"


def is_open(
    policies: Iterable[Json], direction: Direction, pod: End, other: End, port: Port
) -> bool:
    """Return whether the policies of a pod's namespace let it send, or receive.

    Args:
        policies: NetworkPolicies of the namespace of `pod`.
        direction: Egress: `pod` sends. Ingress: it receives.
        pod: The end that the policies are about.
        other: The other end.
        port: Port of the end that receives.
    """
    selecting = [policy for policy in policies if _is_about(policy, direction, pod)]
    if not selecting:
        return True
    receiver = other if direction == "Egress" else pod
    for policy in selecting:
        for rule in nested(policy, "spec").get(direction.lower()) or ():
            if not _has_port(rule.get("ports") or (), port, receiver):
                continue
            peers = rule.get(_PEERS[direction]) or ()
            # A rule without peers is about all of them.
            if not peers or any(_is_peer(peer, other, pod.namespace) for peer in peers):
                return True
    return False


def _is_about(policy: Json, direction: Direction, pod: End) -> bool:
    spec = nested(policy, "spec")
    directions = spec.get("policyTypes") or [
        "Ingress",
        *(["Egress"] if "egress" in spec else []),
    ]
    return direction in directions and selects(
        spec.get("podSelector") or {}, pod.labels
    )


def _has_port(ports: Iterable[Json], port: Port, receiver: End) -> bool:
    entries = list(ports)
    if not entries:
        return True
    for entry in entries:
        if entry.get("protocol", "TCP") != port.protocol:
            continue
        first = entry.get("port")
        if isinstance(first, str):
            first = receiver.named_ports.get(first, 0)
        if first is None or first <= port.number <= (entry.get("endPort") or first):
            return True
    return False


def _is_peer(peer: Json, other: End, own_namespace: str) -> bool:
    if "ipBlock" in peer:
        # Some network plugins match pods by their address too, others never do.
        return not other.namespace and _is_in_block(peer["ipBlock"], other.address)
    if not other.namespace:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"] or {}, other.namespace_labels):
            return False
    elif other.namespace != own_namespace:
        return False
    return selects(peer.get("podSelector") or {}, other.labels)


def _is_in_block(block: Json, address: str) -> bool:
    number = ipaddress.ip_address(address)
    exceptions = block.get("except") or ()
    if any(number in ipaddress.ip_network(cidr) for cidr in exceptions):
        return False
    return number in ipaddress.ip_network(block["cidr"])


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Return whether a label selector matches; the empty one matches everything."""
    if not (selector.get("matchLabels") or {}).items() <= labels.items():
        return False
    for expression in selector.get("matchExpressions") or ():
        value = labels.get(expression["key"])
        values = expression.get("values") or ()
        match expression["operator"]:
            case "In":
                fits = value in values
            case "NotIn":
                fits = value not in values
            case "Exists":
                fits = value is not None
            case _:
                fits = value is None
        if not fits:
            return False
    return True
