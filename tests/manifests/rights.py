"""Accounts: what they may do against what their pods do, and where tokens are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from components.train.launch.cluster_api import GROUP, PLURAL
from tests.manifests.rendering import ROOT, Json, named, of_kind

Use = tuple[str, str, str, str]
"""API group, resource, verb, and the name of the one object where it is but one."""
RUN = "ratchet-run"
RUN_IN_UI = "default-editor"
"""Account of runs that are created in the UI; the component `profile` makes it."""
KFP_USES: set[Use] = {
    ("argoproj.io", "workflowtaskresults", "create", ""),
    ("argoproj.io", "workflowtaskresults", "patch", ""),
    ("", "configmaps", "get", "kfp-launcher"),
    ("", "secrets", "get", "mlpipeline-minio-artifact"),
}
"""What Argo's executor and KFP 2.17's launcher and driver do in the pods of a run, from their
source."""


def launcher_uses(
    source: Path = ROOT / "components" / "train" / "launch" / "cluster_api.py",
) -> set[Use]:
    """What `train` asks of the API server, read off its code: `Request(verb, resource, …)` and
    `_list(resource, …)`."""
    found: set[Use] = set()
    for call in (
        node
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Call)
    ):
        match call.func, call.args:
            case ast.Name("Request"), [ast.Constant(str(verb)), ast.Name("PLURAL"), *_]:
                found.add((GROUP, PLURAL, verb, ""))
            case ast.Name("Request"), [
                ast.Constant(str(verb)),
                ast.Constant(str(resource)),
                *_,
            ]:
                found.add(("", resource, verb, ""))
            case ast.Attribute(attr="_list"), [ast.Constant(str(resource)), *_]:
                found.add(("", resource, "list", ""))
    return found


def rights_findings(objects: tuple[Json, ...]) -> Iterator[str]:
    """Rights that are not used, uses without a right, tokens where nothing uses them, rights beyond
    the namespace."""
    uses = KFP_USES | launcher_uses()
    accounts = {one["metadata"]["name"] for one in of_kind(objects, "ServiceAccount")}
    used = {account: uses for account in (RUN, RUN_IN_UI) if account in accounts}
    granted: dict[str, set[Use]] = {}
    for account, use in _grants(objects):
        granted.setdefault(account, set()).add(use)
    for account in sorted({*used, *granted}):
        may, does = granted.get(account, set()), used.get(account, set())
        for use in sorted(may ^ does):
            yield f"rights: {account} {'may, and does not' if use in may else 'does, and may not'}: {' '.join(use)}"
    for one in of_kind(objects, "ServiceAccount"):
        uses_token = one["metadata"]["name"] in used
        if one.get("automountServiceAccountToken") is not uses_token:
            yield f"rights: {named(one)} {'has no' if uses_token else 'may have a'} token"
    for one in of_kind(objects, "ClusterRole", "ClusterRoleBinding"):
        yield f"rights: {named(one)} reaches beyond the namespace"


def _grants(objects: tuple[Json, ...]) -> Iterator[tuple[str, Use]]:
    """(account, use) for everything the role bindings allow; subjects elsewhere keep their
    namespace in their name."""
    roles = {one["metadata"]["name"]: one["rules"] for one in of_kind(objects, "Role")}
    for binding in of_kind(objects, "RoleBinding"):
        for subject in binding["subjects"]:
            here = (
                subject["kind"] == "ServiceAccount"
                and subject["namespace"] == binding["metadata"]["namespace"]
            )
            account = (
                subject["name"]
                if here
                else f"{subject['kind']} {subject['namespace']}/{subject['name']}"
            )
            for rule in roles.get(binding["roleRef"]["name"], ()):
                yield from ((account, use) for use in _uses(rule))


def _uses(rule: Json) -> Iterator[Use]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                for name in rule.get("resourceNames") or ("",):
                    yield group, resource, verb, name
