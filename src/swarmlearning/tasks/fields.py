"""Fields of a YAML mapping, read one by one; what is wrong is collected, so that a person is told all of it at once."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import yaml

from swarmlearning.errors import InvalidName
from swarmlearning.tasks.faults import NULL, Fault, line_of, name_field, show_node, show_text

Nodes = Mapping[str, yaml.Node]

Name = TypeVar("Name", bound=str)

_COLON: Final = "; a text with a colon and a blank in it needs quotes"


class Fields:
    """The entries of one mapping.

    What cannot be used reads as an empty value and is a fault: who reads looks at the faults before the values.
    """

    def __init__(self, faults: list[Fault], node: yaml.Node, path: str, known: Sequence[str]) -> None:
        """Read a mapping whose keys are among `known`; whatever else `node` is, is a fault."""
        self._faults = faults
        self._path = path
        self._line = line_of(node)
        self._nodes: dict[str, yaml.Node] = {}
        if not isinstance(node, yaml.MappingNode):
            tell(faults, node, path, f"expected a mapping with {', '.join(known)}, got {show_node(node)}")
            self._is_mapping = False
            return
        self._is_mapping = True
        for key, value in node.value:
            if key.value in known:
                self._nodes[key.value] = value
            else:
                tell(faults, key, name_field(path, key.value), explain_unknown(key.value, known))

    def path(self, key: str) -> str:
        """The path of a field."""
        return name_field(self._path, key)

    def find(self, key: str, *, required: bool = False) -> yaml.Node | None:
        """A field's node; None where it is left out or `~`."""
        node = self._nodes.get(key)
        if node is not None and not (isinstance(node, yaml.ScalarNode) and node.tag == NULL):
            return node
        if required and self._is_mapping:
            got = "it is missing" if node is None else "got nothing (~)"
            line = self._line if node is None else line_of(node)
            self._faults.append(Fault(line=line, field=self.path(key), text=f"expected a value, {got}"))
        return None

    def text(self, key: str, *, required: bool = True, most: int = 0, one_line: bool = True) -> str:
        """A field's text as it was written; empty where it is left out or `~`."""
        node = self.find(key, required=required)
        if node is None:
            return ""
        return read_text(self._faults, node, self.path(key), most=most, one_line=one_line)

    def place(self, key: str, *, required: bool = True) -> str:
        """A field's text, which is where a program sees something: from the root of what it sees."""
        text = self.text(key, required=required)
        if text and not text.startswith("/"):
            tell(self._faults, self._nodes[key], self.path(key), f"expected a path from /, got {show_text(text)}")
        return text

    def optional(self, key: str) -> str | None:
        """A field's text, or None where it is left out or `~`."""
        return self.text(key) if self.find(key) is not None else None

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """A field that is one of a few words."""
        node = self.find(key, required=True)
        if node is None:
            return ""
        if not isinstance(node, yaml.ScalarNode) or node.value not in choices:
            tell(self._faults, node, self.path(key), f"expected {' or '.join(choices)}, got {show_node(node)}")
            return ""
        return str(node.value)

    def name(self, key: str, check: Callable[[str], Name], default: Name | None = None) -> Name | None:
        """A field that is a name; `default` where it is left out or `~`, and None where it is wrong."""
        node = self.find(key, required=default is None)
        if node is None:
            return default
        text = read_text(self._faults, node, self.path(key))
        if not text:
            return None
        try:
            return check(text)
        except InvalidName as error:
            tell(self._faults, node, self.path(key), str(error))
            return None

    def items(self, key: str, *, required: bool = True, empty: bool = False) -> list[tuple[str, yaml.Node]]:
        """The paths and nodes of a field that is a list; none where it is left out or `~`, or `empty` and so."""
        node = self.find(key, required=required)
        if node is None:
            return []
        path = self.path(key)
        if not isinstance(node, yaml.SequenceNode):
            tell(self._faults, node, path, f"expected a list, got {show_node(node)}")
            return []
        if not node.value and not empty:
            tell(self._faults, node, path, "expected at least one entry, got an empty list")
        return [(f"{path}[{number}]", item) for number, item in enumerate(node.value, 1)]


def tell(faults: list[Fault], node: yaml.Node, path: str, text: str) -> None:
    """Note what is wrong with a node."""
    faults.append(Fault(line=line_of(node), field=path, text=text))


def read_text(faults: list[Fault], node: yaml.Node, path: str, *, most: int = 0, one_line: bool = True) -> str:
    """A text as it was written, not empty; at most `most` characters if given; whatever else `node` is, is a fault."""
    if not isinstance(node, yaml.ScalarNode) or node.tag == NULL:
        colon = _COLON if isinstance(node, yaml.MappingNode) else ""
        tell(faults, node, path, f"expected text, got {show_node(node)}{colon}")
        return ""
    text = str(node.value)
    if not text:
        tell(faults, node, path, "expected text, got an empty one")
    elif most and len(text) > most:
        tell(faults, node, path, f"expected at most {most} characters, got {len(text)}")
    elif one_line and ("\n" in text or "\t" in text):
        tell(faults, node, path, f"expected one line without tabs, got {show_text(text)}")
    return text


def explain_unknown(key: str, known: Sequence[str]) -> str:
    """That a mapping has no such field, and which was probably meant."""
    folded = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(key[:80].lower(), list(folded), n=1)
    meant = f"; did you mean {folded[nearest[0]]}?" if nearest else ""
    return f"unknown field; expected {', '.join(known)}{meant}"
