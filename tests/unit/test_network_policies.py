"""`doctor` reads network policies as the reference does, and as the tests' own evaluator does."""

from __future__ import annotations

from typing import Any

import pytest

from components.cli.doctor.network_policies import End, Port, is_open
from tests.manifests import network
from tests.manifests.rendering import COMPONENTS, composed, of_kind
from tests.manifests.rows import ENDS, ROWS

PORTS = sorted({(row.port, row.protocol) for row in ROWS})


def product_end(end: network.End) -> End:
    """An end of the table, as the product has it."""
    return End(end.address, end.namespace, end.labels, end.namespace_labels)


@pytest.mark.parametrize(
    "components", [(), *((name,) for name in COMPONENTS), COMPONENTS]
)
def test_both_evaluators_say_the_same_of_every_pair_of_ends(
    components: tuple[str, ...],
) -> None:
    policies = list(of_kind(composed(*components), "NetworkPolicy"))
    compared = 0
    for source in ENDS.values():
        for target in ENDS.values():
            for number, protocol in PORTS:
                expected = network.allowed(policies, source, target, number, protocol)
                told = _is_allowed(policies, source, target, Port(number, protocol))
                # The tests' evaluator takes a pod for its address too, as some plugins do.
                if expected != told and target.namespace:
                    expected = network.allowed(
                        policies, source, target, number, protocol
                    ) and (
                        not _is_by_address(
                            policies, source, target, Port(number, protocol)
                        )
                    )
                assert told == expected, (source, target, number, protocol)
                compared += 1
    assert compared == len(ENDS) ** 2 * len(PORTS)


def _of(policies: list[Any], namespace: str) -> list[Any]:
    return [one for one in policies if one["metadata"]["namespace"] == namespace]


def _is_allowed(
    policies: list[Any], source: network.End, target: network.End, port: Port
) -> bool:
    sender, receiver = product_end(source), product_end(target)
    egress = is_open(_of(policies, source.namespace), "Egress", sender, receiver, port)
    return egress and is_open(
        _of(policies, target.namespace), "Ingress", receiver, sender, port
    )


def _is_by_address(
    policies: list[Any], source: network.End, target: network.End, port: Port
) -> bool:
    as_address = End(target.address)
    return is_open(
        _of(policies, source.namespace), "Egress", product_end(source), as_address, port
    )


POD = End("10.0.0.1", "mine", {"app": "a"}, {"team": "x"}, {"web": 8080})
OTHER = End("10.0.0.2", "other", {"app": "b"}, {"team": "y"}, {"api": 9090})
OUTSIDE = End("52.1.2.3")
TO_OTHERS: dict[str, Any] = {"namespaceSelector": {}}


def policy(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "mine"},
        "spec": {"podSelector": {}, **spec},
    }


@pytest.mark.parametrize(
    ("spec", "other", "port", "expected"),
    [
        # Without `policyTypes`, a policy with egress rules is about both directions.
        ({"egress": []}, OTHER, Port(80), False),
        ({"ingress": []}, OTHER, Port(80), True),
        ({"policyTypes": ["Ingress"], "egress": []}, OTHER, Port(80), True),
        ({"egress": [{}]}, OUTSIDE, Port(80), True),
        ({"egress": [{"ports": [{"port": 80}]}]}, OUTSIDE, Port(80), True),
        ({"egress": [{"ports": [{"port": 80}]}]}, OUTSIDE, Port(80, "UDP"), False),
        (
            {"egress": [{"ports": [{"protocol": "UDP"}]}]},
            OUTSIDE,
            Port(53, "UDP"),
            True,
        ),
        (
            {"egress": [{"ports": [{"port": 80, "endPort": 90}]}]},
            OUTSIDE,
            Port(90),
            True,
        ),
        (
            {"egress": [{"ports": [{"port": 80, "endPort": 90}]}]},
            OUTSIDE,
            Port(91),
            False,
        ),
        # A named port is the receiver's.
        ({"egress": [{"ports": [{"port": "api"}]}]}, OTHER, Port(9090), True),
        ({"egress": [{"ports": [{"port": "web"}]}]}, OTHER, Port(8080), False),
        ({"egress": [{"to": [TO_OTHERS]}]}, OTHER, Port(80), True),
        ({"egress": [{"to": [TO_OTHERS]}]}, OUTSIDE, Port(80), False),
        # Without a namespace selector, peers are of the policy's own namespace.
        ({"egress": [{"to": [{"podSelector": {}}]}]}, OTHER, Port(80), False),
        ({"egress": [{"to": [{"podSelector": {}}]}]}, POD, Port(80), True),
        (
            {"egress": [{"to": [{"ipBlock": {"cidr": "52.0.0.0/8"}}]}]},
            OUTSIDE,
            Port(80),
            True,
        ),
        (
            {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
            OTHER,
            Port(80),
            False,
        ),
        (
            {
                "egress": [
                    {
                        "to": [
                            {
                                "ipBlock": {
                                    "cidr": "0.0.0.0/0",
                                    "except": ["52.1.0.0/16"],
                                }
                            }
                        ]
                    }
                ]
            },
            OUTSIDE,
            Port(80),
            False,
        ),
        (
            {"egress": [], "podSelector": {"matchLabels": {"app": "z"}}},
            OTHER,
            Port(80),
            True,
        ),
    ],
)
def test_a_rule_is_read_as_the_reference_says(
    spec: dict[str, Any], other: End, port: Port, expected: bool
) -> None:
    assert is_open([policy(spec)], "Egress", POD, other, port) is expected


@pytest.mark.parametrize(
    ("operator", "values", "expected"),
    [
        ("In", ["a", "c"], True),
        ("In", ["b"], False),
        ("NotIn", ["a"], False),
        ("NotIn", ["b"], True),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
    ],
)
def test_a_selector_by_expressions_is_read(
    operator: str, values: list[str], expected: bool
) -> None:
    selector = {
        "matchExpressions": [{"key": "app", "operator": operator, "values": values}]
    }
    closed = policy({"podSelector": selector, "policyTypes": ["Egress"]})
    assert is_open([closed], "Egress", POD, OTHER, Port(80)) is not expected


def test_a_label_that_is_missing_is_in_no_list_and_not_in_every_list() -> None:
    for operator, expected in (("In", True), ("NotIn", False), ("DoesNotExist", False)):
        selector = {
            "matchExpressions": [{"key": "tier", "operator": operator, "values": ["x"]}]
        }
        closed = policy({"podSelector": selector, "policyTypes": ["Egress"]})
        assert is_open([closed], "Egress", POD, OTHER, Port(80)) is expected


def test_ingress_is_about_the_receiver_and_its_named_ports() -> None:
    rule = {"from": [TO_OTHERS], "ports": [{"port": "web"}]}
    policies = [policy({"policyTypes": ["Ingress"], "ingress": [rule]})]
    assert is_open(policies, "Ingress", POD, OTHER, Port(8080))
    assert not is_open(policies, "Ingress", POD, OTHER, Port(9090))
    assert not is_open(policies, "Ingress", POD, OUTSIDE, Port(8080))
