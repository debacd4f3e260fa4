"""Names as pods look them up: Services of the cluster with their pods, and addresses outside."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from components.cli.doctor.api_server import ApiServer
from components.cli.doctor.network_policies import End, Port
from components.cli.json_documents import Json, nested

Resolve = Callable[[str], list[str]]
"""Host name → its addresses; none for a name that is not known."""


@dataclass(frozen=True)
class Receiver:
    """An end that takes connections, and the port at which policies see them."""

    end: End
    port: Port
    selector: Mapping[str, str] = field(default_factory=dict)
    """Labels by which its Service selects it; empty for an address outside the pods."""


def resolved(host: str) -> list[str]:
    """Return the addresses of a host by this machine's name server, IPv4 where it has such."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            answers = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
        except OSError:
            continue
        return sorted({str(answer[4][0]) for answer in answers})
    return []


def receivers(
    api: ApiServer, namespace: str, host: str, port: Port, resolve: Resolve
) -> list[Receiver]:
    """Return what is behind a host and a port; nothing if the name is not known.

    Args:
        api: The API server.
        namespace: Of the pods that look the name up.
        host: An IP address, the name of a Service, or a name outside the cluster.
        port: Port that is spoken to.
        resolve: Looks names outside the cluster up.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [Receiver(End(host), port)]
    service_name, service_namespace = _as_service(host, namespace)
    if service_name:
        behind = of_service(api, service_namespace, service_name, port)
        if behind is not None:
            return behind
    return [Receiver(End(address), port) for address in resolve(host)]


def _as_service(host: str, namespace: str) -> tuple[str, str]:
    """Return (Service, namespace) that a name may mean; empty for a name outside the cluster."""
    parts = host.split(".")
    match parts:
        case [name]:
            return name, namespace
        case [name, other_namespace]:
            return name, other_namespace
        case [name, other_namespace, "svc", *_]:
            return name, other_namespace
    return "", ""


def of_service(
    api: ApiServer, namespace: str, name: str, port: Port
) -> list[Receiver] | None:
    """Return the pods or addresses behind a port of a Service; None if there is no such Service."""
    status, service = api.ask(f"/api/v1/namespaces/{namespace}/services/{name}")
    if status != 200:
        return None
    selector = nested(service, "spec", "selector")
    target = _target_port(service, port)
    if not selector:
        return list(_of_slices(api, namespace, name, port))
    _, namespace_object = api.ask(f"/api/v1/namespaces/{namespace}")
    namespace_labels = {
        "kubernetes.io/metadata.name": namespace,
        **nested(namespace_object, "metadata", "labels"),
    }
    behind = []
    for pod in _pods(api, namespace, selector):
        named_ports = _named_ports(pod)
        labels = nested(pod, "metadata", "labels") or selector
        address = str(nested(pod, "status").get("podIP") or "")
        number = (
            named_ports.get(target, port.number) if isinstance(target, str) else target
        )
        end = End(address, namespace, labels, namespace_labels, named_ports)
        behind.append(Receiver(end, Port(number, port.protocol), selector))
    return behind


def _target_port(service: Json, port: Port) -> int | str:
    """Return the port of the pods, a number or a name, for a port of their Service."""
    for entry in nested(service, "spec").get("ports") or ():
        if (
            entry.get("port") == port.number
            and entry.get("protocol", "TCP") == port.protocol
        ):
            target: int | str = entry.get("targetPort") or port.number
            return target
    return port.number


def _pods(api: ApiServer, namespace: str, selector: dict[str, str]) -> list[Json]:
    """Return the pods that a Service selects, or one that has its labels alone."""
    words = ",".join(f"{key}={value}" for key, value in selector.items())
    path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={quote(words)}"
    status, document = api.ask(path)
    pods = document.get("items") if status == 200 else None
    return pods or [{"metadata": {"labels": selector}}]


def _named_ports(pod: Json) -> dict[str, int]:
    return {
        str(entry["name"]): int(entry["containerPort"])
        for container in nested(pod, "spec").get("containers") or ()
        for entry in container.get("ports") or ()
        if "name" in entry
    }


def _of_slices(
    api: ApiServer, namespace: str, name: str, port: Port
) -> Iterator[Receiver]:
    """Yield the addresses of a Service that selects no pods, as the API server's own."""
    folder = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    _, document = api.ask(f"{folder}?labelSelector=kubernetes.io/service-name%3D{name}")
    for endpoint_slice in document.get("items") or ():
        numbers = [int(entry["port"]) for entry in endpoint_slice.get("ports") or ()]
        for endpoint in endpoint_slice.get("endpoints") or ():
            for address in endpoint.get("addresses") or ():
                for number in numbers or [port.number]:
                    yield Receiver(End(str(address)), Port(number, port.protocol))
