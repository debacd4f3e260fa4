"""YAML without its traps: a key that is written twice and numbers that mean another number."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import yaml

N = TypeVar("N", int, float)

# YAML 1.1, which PyYAML reads: a leading zero makes a number octal, a colon sexagesimal.
_TRAP = re.compile(
    r"[-+]?(?:0[0-9_]*[0-9]|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)"
)
_MERGE = "tag:yaml.org,2002:merge"

MAX_NODES = 100_000
"""Values of a document. Ten lines with aliases of aliases can stand for billions."""


class _StrictLoader(yaml.SafeLoader):
    """Refuses what PyYAML would read in silence as something else."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Any, Any]:
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
        return _as_written(node, super().construct_yaml_int(node))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return _as_written(node, super().construct_yaml_float(node))


def _as_written(node: yaml.ScalarNode, number: N) -> N:
    if _TRAP.fullmatch(node.value):
        raise yaml.constructor.ConstructorError(
            problem=f"{node.value} would be read as {number}: write the number in decimal",
            problem_mark=node.start_mark,
        )
    return number


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)
_StrictLoader.add_constructor(
    "tag:yaml.org,2002:float", _StrictLoader.construct_yaml_float
)


def load_yaml(text: str) -> Any:
    """Return the value of a YAML document. Raise yaml.YAMLError for what cannot be read safely."""
    # Derived from the safe loader: no tag of the document makes an object of Python.
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _num_nodes(node, {}) > MAX_NODES:
            raise yaml.YAMLError(
                f"more than {MAX_NODES:,} values, counted with those of aliases"
            )
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply, or an alias within itself") from None
    except (ValueError, OverflowError) as error:
        # Numbers of thousands of digits, and dates that no calendar has.
        raise yaml.YAMLError(f"a value cannot be read: {error}") from None
    finally:
        loader.dispose()


def _num_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the values below a node. An alias counts as often as it is used.

    Args:
        node: The node.
        known: Id of a node → its number, of those that were counted.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        children = node.value
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        known[id(node)] = 1 + sum(_num_nodes(child, known) for child in children)
    return known[id(node)]
