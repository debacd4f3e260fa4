"""Who may reach whom: an evaluator of NetworkPolicies (networking.k8s.io/v1), by the rules of its
reference.

A pod that no policy selects for a direction is open in it; one that any selects may do what some
policy allows, and nothing else. Traffic passes if the sender's egress and the receiver's ingress
both let it. A CIDR matches pods by their address too, as some network plugins do: what the tests
call denied is denied either way.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod, or an address outside the cluster's pods (no namespace)."""

    address: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


def allowed(
    objects: Iterable[Json], source: End, target: End, port: int, protocol: str = "TCP"
) -> bool:
    """Whether a connection passes all policies among `objects`."""
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    return _passes(policies, "Egress", source, target, port, protocol) and _passes(
        policies, "Ingress", target, source, port, protocol
    )


def _passes(
    policies: list[Json], direction: str, end: End, other: End, port: int, protocol: str
) -> bool:
    mine = [
        one
        for one in policies
        if end.namespace
        and one["metadata"]["namespace"] == end.namespace
        and direction in _directions(one["spec"])
        and selects(one["spec"]["podSelector"], end.labels)
    ]
    rules = [rule for one in mine for rule in one["spec"].get(direction.lower()) or ()]
    peers = "to" if direction == "Egress" else "from"
    return not mine or any(
        _port_matches(rule.get("ports"), port, protocol)
        and (
            not rule.get(peers)
            or any(_peer_matches(peer, other, end.namespace) for peer in rule[peers])
        )
        for rule in rules
    )


def _directions(spec: Json) -> list[str]:
    given: list[str] = spec.get("policyTypes") or [
        "Ingress",
        *(["Egress"] if "egress" in spec else []),
    ]
    return given


def _port_matches(ports: list[Json] | None, port: int, protocol: str) -> bool:
    if not ports:
        return True
    mine = [one for one in ports if one.get("protocol", "TCP") == protocol]
    return any(
        "port" not in one or one["port"] <= port <= (one.get("endPort") or one["port"])
        for one in mine
    )


def _peer_matches(peer: Json, other: End, own_namespace: str) -> bool:
    if "ipBlock" in peer:
        block, address = peer["ipBlock"], ipaddress.ip_address(other.address)
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(
            address in ipaddress.ip_network(cidr) for cidr in block.get("except") or ()
        )
    if not other.namespace:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], other.namespace_labels):
            return False
    elif other.namespace != own_namespace:
        return False
    return selects(peer.get("podSelector") or {}, other.labels)


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; the empty one matches everything."""
    wanted: Json = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for one in selector.get("matchExpressions") or ():
        key, values = one["key"], one.get("values") or []
        match one["operator"]:
            case "In":
                fits = labels.get(key) in values
            case "NotIn":
                fits = labels.get(key) not in values
            case "Exists":
                fits = key in labels
            case "DoesNotExist":
                fits = key not in labels
            case operator:
                raise ValueError(f"no operator {operator!r}")
        if not fits:
            return False
    return True
