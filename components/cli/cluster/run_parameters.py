"""Parameters of a run, from `--param name=value`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import yaml
from pydantic import JsonValue

from components.cli.cluster.inputs import refuse_local_inputs
from components.cli.json_documents import Json
from components.cli.package.package_file import Package
from components.cli.package.secret_values import looks_secret
from components.contracts.recipe.pipeline_text import recipe_document
from components.errors import UserError
from components.storage import keys

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "STRING": ((str,), "text"),
    "NUMBER_INTEGER": ((int,), "a whole number"),
    "NUMBER_DOUBLE": ((int, float), "a number"),
    "BOOLEAN": ((bool,), "true or false"),
    "STRUCT": ((dict,), "a mapping"),
    "LIST": ((list,), "a list"),
}
"""Type in a package → its Python types, and a name for people."""


def checked_parameters(
    package: Package, assignments: Sequence[str], store: str
) -> Json:
    """Return the run's parameters.

    Args:
        package: The pipeline, which knows names and types.
        assignments: `name=value` words; values are YAML.
        store: Value of the parameter `store`; empty: not given.

    Raises:
        UserError: A name is unknown, a type wrong, a value missing or looks like a secret, or pods
            cannot reach the store, or data or model lie on this machine.
    """
    definitions = package.parameters
    parameters: Json = {}
    for assignment in assignments:
        name, equals_sign, text = assignment.partition("=")
        if not equals_sign:
            raise UserError(f"--param {name}: write name=value")
        if name not in definitions:
            # Without a cutoff: some name is always the nearest.
            nearest = difflib.get_close_matches(name, definitions, n=1, cutoff=0.0)[0]
            raise UserError(
                f"--param {name}: the pipeline has no such parameter; did you mean {nearest!r}?"
            )
        type_name = str(definitions[name].get("parameterType", "STRING"))
        parameters[name] = _parse(name, text, type_name)
    # The store often comes from RATCHET_STORE, for all verbs: a package without this parameter is
    # no mistake of the user's.
    if store and "store" in definitions:
        parameters["store"] = store
    _check_complete(definitions, parameters)
    for name, value in parameters.items():
        if looks_secret(name, value):
            raise UserError(
                f"parameter {name} looks like a secret: everybody who may see the run would see "
                "it, for ever. Put it into a Secret of the namespace and name that in the profile "
                "(`secrets`)"
            )
    if "store" in parameters:
        _check_store(str(parameters["store"]))
    refuse_local_inputs(recipe_of_run(package, parameters))
    return parameters


def recipe_of_run(package: Package, parameters: Json) -> Json:
    """Return the recipe that a run has: its parameter, else the one that was compiled in."""
    default: Json = package.parameters.get("recipe", {}).get("defaultValue") or {}
    recipe = parameters.get("recipe") or default
    # What else a person typed as the recipe is refused by `prepare`.
    return recipe_document(recipe) if isinstance(recipe, dict) else recipe


def _check_complete(definitions: Json, parameters: Json) -> None:
    missing = [
        name
        for name, definition in definitions.items()
        if name not in parameters and not definition.get("isOptional")
    ]
    if missing:
        option = "store" if "store" in missing else "param"
        raise UserError(f"parameter {missing[0]} has no value; pass --{option} …")


def _check_store(store: str) -> None:
    # Before its form is looked at: what is wrong with a folder is no form.
    if not store.startswith("s3://"):
        raise UserError(f"store {store}: pods share no disk; use s3://bucket/prefix")
    keys.canonical_root(store)


def _parse(name: str, text: str, type_name: str) -> JsonValue:
    types, type_in_words = _TYPES.get(type_name, ((object,), "a value"))
    try:
        value: JsonValue = text if type_name == "STRING" else yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    # In Python, True is an int too.
    is_stray_bool = isinstance(value, bool) and type_name != "BOOLEAN"
    if not isinstance(value, types) or is_stray_bool:
        # The message is without the value, which may be a secret.
        raise UserError(f"--param {name}: {type_in_words} is wanted")
    return value
