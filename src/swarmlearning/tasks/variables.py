"""Environment variables as people write them in YAML, in a list of mappings or in one mapping."""

import yaml

from swarmlearning.tasks.faults import NULL, Fault, name_field, show_node, show_text
from swarmlearning.tasks.fields import tell


def read_variables(faults: list[Fault], node: yaml.Node | None, path: str) -> tuple[tuple[str, str | None], ...]:
    """Variables in the order in which they were written, values as they stand there; None: not to be set."""
    found: dict[str, str | None] = {}
    for where, key, value in read_pairs(faults, node, path):
        inner = name_field(where, key.value)
        if not _is_variable(key.value):
            tell(faults, key, where, f"the variable {show_text(key.value)}; expected a name without blanks and =")
        elif key.value in found:
            tell(faults, key, inner, "set twice; expected it once")
        elif not isinstance(value, yaml.ScalarNode):
            tell(faults, value, inner, f"expected a text or number, got {show_node(value)}")
        else:
            found[key.value] = None if value.tag == NULL else str(value.value)
    return tuple(found.items())


def read_pairs(faults: list[Fault], node: yaml.Node | None, path: str) -> list[tuple[str, yaml.ScalarNode, yaml.Node]]:
    """The path, key and value of all entries of a mapping, or of a list of mappings; none where there is no node."""
    if node is None:
        return []
    if isinstance(node, yaml.MappingNode):
        return [(path, key, value) for key, value in node.value]
    if not isinstance(node, yaml.SequenceNode):
        tell(faults, node, path, f"expected a list of NAME: value, got {show_node(node)}")
        return []
    pairs = []
    for number, item in enumerate(node.value, 1):
        where = f"{path}[{number}]"
        if isinstance(item, yaml.MappingNode):
            pairs += [(where, key, value) for key, value in item.value]
        else:
            tell(faults, item, where, f"expected NAME: value, got {show_node(item)}")
    return pairs


def _is_variable(name: str) -> bool:
    return bool(name) and "=" not in name and not any(char.isspace() for char in name)
