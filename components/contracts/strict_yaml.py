"""YAML without its traps: a key that is written twice and numbers that mean another number."""

from __future__ import annotations

import re
from typing import Any

import yaml

# YAML 1.1, which PyYAML reads: a leading zero makes a number octal, a colon sexagesimal.
_TRAP = re.compile(r"[-+]?(?:0[0-9_]*[0-9]|[0-9][0-9_]*(?::[0-5]?[0-9])+)")
_MERGE = "tag:yaml.org,2002:merge"


class _StrictLoader(yaml.SafeLoader):
    """Refuses what PyYAML would read in silence as something else."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key_node, _ in node.value:
            # `<<` brings in keys that those of the mapping itself may replace.
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE:
                continue
            if key_node.value in keys:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key_node.value!r} is written twice",
                    problem_mark=key_node.start_mark,
                )
            keys.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if _TRAP.fullmatch(node.value):
            number = super().construct_yaml_int(node)
            raise yaml.constructor.ConstructorError(
                problem=f"{node.value} would be read as {number}: write the number in decimal",
                problem_mark=node.start_mark,
            )
        return super().construct_yaml_int(node)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def load_yaml(text: str) -> Any:
    """Return the value of a YAML document. Raise yaml.YAMLError for what cannot be read safely."""
    # Derived from the safe loader: no tag of the document makes an object of Python.
    return yaml.load(text, _StrictLoader)
