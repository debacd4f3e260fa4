"""Addresses that the pods of a run must reach: those of its recipe, its profile and its settings."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from components.cli.cluster.inputs import named_inputs
from components.cli.package.profiles import Profile, Step
from components.contracts.recipe import Recipe
from components.contracts.recipe.announce import Platform
from components.errors import UserError
from components.otlp import ENDPOINT_VARIABLES

_HUB = "https://huggingface.co"
_OPENAI = "https://api.openai.com"
_PORTS = {"http": 80, "https": 443}
_READERS: dict[str, Step] = {
    "select.reward.source": "select",
    "evaluate.harness.folder": "evaluate",
}
"""Inputs that another step than `prepare` fetches."""
_PLATFORMS: dict[Platform, tuple[str, str]] = {
    "model-registry": ("the model registry", "MODEL_REGISTRY_URL"),
    "mlflow": ("MLflow for releases", "MLFLOW_TRACKING_URI"),
}
"""Platform of `announce.to` → its name, and the variable of its address."""


@dataclass(frozen=True)
class Destination:
    """An address that steps of a run speak to."""

    purpose: str
    """A name, in words."""
    reason: str
    """The key, variable or object that asks for it."""
    url: str
    steps: tuple[Step, ...] = ()
    """Steps that speak to it; empty: all of them."""
    component: str = "egress"
    """The component of the manifests that opens it."""
    from_nodes: bool = False
    """Nodes of a training on many nodes speak to it too."""
    protocol: str = "TCP"

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The host and the port of the URL. Raises UserError for what is no URL."""
        try:
            parts = urlsplit(self.url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            parts, port = urlsplit(""), 0
        if not parts.hostname or not port:
            raise UserError(
                f"{self.reason}: {self.url!r} is no URL; write http://host:port"
            )
        return parts.hostname, port


def destinations(
    recipe: Recipe | None, profile: Profile, settings: Mapping[str, str]
) -> Iterator[Destination]:
    """Yield the addresses of a run, or the proxy that leads to one.

    Args:
        recipe: The recipe; None: those of the profile and the settings alone.
        profile: Says which settings the steps get.
        settings: The ConfigMap of the steps.
    """
    environment = {key: settings[key] for key in profile.config_keys if key in settings}
    yield _by_proxy(_store(environment), environment)
    tracking_uri = environment.get("MLFLOW_TRACKING_URI", "")
    if tracking_uri.startswith("http"):
        mlflow = Destination("MLflow", "MLFLOW_TRACKING_URI", tracking_uri, ("train",))
        yield _by_proxy(replace(mlflow, from_nodes=True), environment)
    gateway = environment.get("PROMETHEUS_PUSHGATEWAY_URL", "")
    if gateway:
        steps: tuple[Step, ...] = ("decide", "report")
        pushgateway = Destination(
            "the Pushgateway", "PROMETHEUS_PUSHGATEWAY_URL", gateway, steps
        )
        yield _by_proxy(pushgateway, environment)
    collectors = {
        environment[name]: name
        for name in reversed(ENDPOINT_VARIABLES)
        if environment.get(name)
    }
    for url, name in collectors.items():
        collector = Destination(
            "the OpenTelemetry collector", name, url, ("decide", "report")
        )
        yield _by_proxy(collector, environment)
    if recipe is not None:
        for destination in _of_recipe(recipe, environment):
            yield _by_proxy(destination, environment)


def addresses_in_secrets(
    recipe: Recipe | None, profile: Profile
) -> Iterator[tuple[str, str]]:
    """Yield (variable, Secret) of addresses that cannot be looked at: no Secret is read."""
    variables = {
        "MLFLOW_TRACKING_URI",
        "PROMETHEUS_PUSHGATEWAY_URL",
        *ENDPOINT_VARIABLES,
    }
    if recipe is not None and recipe.announce is not None:
        variables.add("MODEL_REGISTRY_URL")
    if recipe is not None and recipe.notify is not None:
        variables.add(recipe.notify.url_env)
    if recipe is not None and recipe.select.judge is not None:
        variables.add("RATCHET_JUDGE_URL")
    if recipe is not None and recipe.generate.endpoint is not None:
        variables.add("OPENAI_BASE_URL")
    for secret, keys in profile.secrets.items():
        for key in keys:
            if key in variables:
                yield key, secret


def hub_inputs(recipe: Recipe) -> list[tuple[str, str]]:
    """Return (key, URI) of what a recipe takes from the hub."""
    inputs = named_inputs(recipe.model_dump(mode="json"))
    return [(key, uri) for key, uri in inputs if uri.startswith("hf://")]


def _of_recipe(recipe: Recipe, environment: Mapping[str, str]) -> Iterator[Destination]:
    from_hub = hub_inputs(recipe)
    if from_hub:
        steps = tuple(sorted({_READERS.get(key, "prepare") for key, _ in from_hub}))
        key, uri = from_hub[0]
        url = environment.get("HF_ENDPOINT") or _HUB
        yield Destination("the hub", f"{key}: {uri}", url, steps, "hub")
    if recipe.generate.engine == "openai":
        url = environment.get("OPENAI_BASE_URL") or _OPENAI
        yield Destination("the endpoint", "generate.engine: openai", url, ("generate",))
    judge_url = environment.get("RATCHET_JUDGE_URL", "")
    if recipe.select.judge is not None and judge_url:
        yield Destination("the judge", "select.judge", judge_url, ("select",))
    platforms = recipe.announce.to if recipe.announce is not None else ()
    for platform in platforms:
        purpose, variable = _PLATFORMS[platform]
        url = environment.get(variable, "")
        # One that is missing is told by its variable.
        if url:
            reason = f"announce.to: {platform}"
            yield Destination(purpose, reason, url, ("publish",))


def _store(environment: Mapping[str, str]) -> Destination:
    endpoint = environment.get("AWS_ENDPOINT_URL_S3")
    if endpoint:
        return Destination(
            "the store", "AWS_ENDPOINT_URL_S3", endpoint, from_nodes=True
        )
    region = environment.get("AWS_REGION") or "us-east-1"
    url = f"https://s3.{region}.amazonaws.com"
    reason = "there is no AWS_ENDPOINT_URL_S3"
    return Destination(
        "the store", reason, url, component="outside-store", from_nodes=True
    )


def _by_proxy(destination: Destination, environment: Mapping[str, str]) -> Destination:
    """Return the proxy that leads to a destination, or the destination itself."""
    scheme, _, _ = destination.url.partition("://")
    variable = f"{scheme.upper()}_PROXY"
    proxy = environment.get(variable, "")
    try:
        host, _ = destination.host_and_port
    except UserError:
        return destination  # Its check says what is wrong with it.
    if not proxy or _is_without_proxy(host, environment.get("NO_PROXY", "")):
        return destination
    return replace(
        destination,
        purpose=f"{destination.purpose}, by the proxy",
        reason=f"{destination.reason}, {variable}",
        url=proxy if "://" in proxy else f"http://{proxy}",
        component="egress",
    )


def _is_without_proxy(host: str, no_proxy: str) -> bool:
    """Return whether NO_PROXY (names, endings of names, networks) leaves a host out."""
    for word in no_proxy.split(","):
        entry = word.strip()
        name = entry.lstrip(".")
        if name and (entry == "*" or host == name or host.endswith(f".{name}")):
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue  # One of them is a name.
    return False
