"""The checker of the verifier `json_schema`; `checker_worker` asks it in a confined process."""

from __future__ import annotations

import functools
import json

import jsonschema
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.exceptions import Unresolvable

from components.sandbox.verdict import Verdict

MAX_REASON_CHARACTERS = 300


def check(prompt: str, answer: str, reference: dict[str, object]) -> Verdict:
    """Return 1 if the JSON text `answer` is valid by the schema in `reference`.

    An empty answer asks about the schema alone.
    """
    try:
        validator = _validator(json.dumps(reference.get("schema")))
        error = None
        if answer:
            error = jsonschema.exceptions.best_match(
                validator.iter_errors(json.loads(answer))
            )
    except (jsonschema.exceptions.SchemaError, Unresolvable, ValueError) as problem:
        words = getattr(problem, "message", "") or str(problem)
        return Verdict(0.0, f"the schema: {words[:MAX_REASON_CHARACTERS]}")
    if error is None:
        return Verdict(1.0)
    return Verdict(0.0, f"{error.json_path}: {error.message[:MAX_REASON_CHARACTERS]}")


@functools.lru_cache(maxsize=256)
def _validator(text: str) -> Validator:
    """Return the validator of a schema. Raise SchemaError or ValueError if it is none."""
    schema = json.loads(text)
    if isinstance(schema, str):
        # A cell of a table holds the text of a schema.
        schema = json.loads(schema)
    if not isinstance(schema, dict):
        raise ValueError("a schema is a JSON object")
    kind = jsonschema.validators.validator_for(
        schema, default=jsonschema.Draft202012Validator
    )
    kind.check_schema(schema)
    # Without a way to fetch what `$ref` names.
    validator: Validator = kind(schema, registry=Registry())
    return validator
