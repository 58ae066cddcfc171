"""YAML as a tree of nodes, read under limits, and a tree as lines again. Spec: docs/spec/swci-tasks.md, CI-50, CI-51.

Nothing is made of the nodes but text: no Python object comes from a file, and `on`, `0123` or `1.10` stay as they were
written. Does not: know what a task is.
"""

import re
from collections.abc import Iterator
from typing import Final

import yaml

from swarmlearning.contracts.task_records import MAX_LINE, MAX_TASK_BYTES
from swarmlearning.tasks.faults import NULL, Fault, Stopped, line_of, name_field

MAX_FILE_BYTES: Final = 2 * MAX_TASK_BYTES
"""Largest file, bytes: comments are not counted in a body."""

MAX_DEPTH: Final = 12
"""Deepest nesting of lists and mappings; a task has 5, an agent's profile 8."""

MAX_NODES: Final = 20_000
"""Most texts, lists and mappings in a file, counted after aliases are written out."""

_CORE: Final = "tag:yaml.org,2002:"
_TEXT_TAGS: Final = frozenset(
    _CORE + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
)
_TAGS: Final = {
    yaml.ScalarNode: _TEXT_TAGS,
    yaml.SequenceNode: frozenset({_CORE + "seq"}),
    yaml.MappingNode: frozenset({_CORE + "map"}),
}

_MERGE: Final = _CORE + "merge"

_UNFIT: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
"""Control characters, ends of line that editors do not show, what turns the direction of writing, and no text."""

_FIT: Final = "expected no control characters, none that ends a line unseen, and none that turns its direction"

_WIDTH: Final = MAX_LINE // 4
"""Where long texts are folded when they are written, characters."""


def compose(data: bytes, path: str = "", *, repeats: bool = False) -> tuple[yaml.Node | None, list[Fault]]:
    """CI-50: the tree of a file with its aliases written out, None if there is nothing in it; and what is wrong in it.

    `path` is what fields are called that are not in any other; with `repeats` a key may be given twice with the same
    value.

    Raises:
        Stopped: it is no YAML in UTF-8, or beyond the limits.
    """
    if len(data) > MAX_FILE_BYTES:
        raise Stopped(Fault(line=1, text=f"{len(data)} bytes; expected at most {MAX_FILE_BYTES}"))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Stopped(Fault(line=line, text="not UTF-8; expected text in UTF-8")) from error
    unfit = _UNFIT.search(text)
    if unfit:
        line = text.count("\n", 0, unfit.start()) + 1
        raise Stopped(Fault(line=line, text=f"the character U+{ord(unfit[0]):04X}; {_FIT}"))
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise Stopped(Fault(line=mark.line + 1 if mark else 1, text=f"no YAML: {_one_line(problem)}")) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML converts numbers of escapes and directives without looking.
        raise Stopped(Fault(line=1, text=f"no YAML: {_one_line(str(error))}")) from error
    faults: list[Fault] = []
    return (None if root is None else _Copier(faults, repeats=repeats).copy(root, path, 0)), faults


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:200])


class _Loader(yaml.SafeLoader):
    """Composes nodes only, and stops at the limits."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One node and what is in it."""
        self._nodes += 1
        self._depth += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # the stub leaves it out
        if self._depth > MAX_DEPTH:
            raise Stopped(Fault(line=mark.line + 1, text=f"nested deeper than {MAX_DEPTH}"))
        if self._nodes > MAX_NODES:
            raise Stopped(Fault(line=mark.line + 1, text=f"more than {MAX_NODES} entries"))
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Copier:
    """Writes out aliases, so that each node stands for itself, and tells what a task's text must not hold."""

    def __init__(self, faults: list[Fault], *, repeats: bool) -> None:
        """Put into `faults` what can be passed over."""
        self._faults = faults
        self._repeats = repeats
        self._nodes = 0
        self._size = 0

    def copy(self, node: yaml.Node, path: str, depth: int) -> yaml.Node:
        """A copy of the tree.

        Raises:
            Stopped: it is beyond the limits.
        """
        self._nodes += 1
        if depth > MAX_DEPTH:
            text = f"nested deeper than {MAX_DEPTH}; does an alias stand inside itself?"
            raise Stopped(Fault(line=line_of(node), field=path, text=text))
        if self._nodes > MAX_NODES or self._size > MAX_FILE_BYTES:
            text = f"aliases written out make more than {MAX_NODES} entries, or {MAX_FILE_BYTES} characters"
            raise Stopped(Fault(line=line_of(node), field=path, text=text))
        if node.tag not in _TAGS[type(node)]:
            shown = _one_line(node.tag)[:80]
            self._tell(node, path, f"the tag {shown}; expected none, there are only texts, lists and mappings")
        marks = (node.start_mark, node.end_mark)
        if isinstance(node, yaml.ScalarNode):
            return self._copy_text(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = [self.copy(item, f"{path}[{number}]", depth + 1) for number, item in enumerate(node.value, 1)]
            return yaml.SequenceNode(_CORE + "seq", items, *marks, flow_style=node.flow_style)
        assert isinstance(node, yaml.MappingNode)  # there are no others
        entries = self._copy_entries(node, path, depth)
        return yaml.MappingNode(_CORE + "map", entries, *marks, flow_style=node.flow_style)

    def _copy_entries(self, node: yaml.MappingNode, path: str, depth: int) -> list[tuple[yaml.Node, yaml.Node]]:
        entries: list[tuple[yaml.Node, yaml.Node]] = []
        seen: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._tell(key, path, "a list or mapping as a key; expected a text")
                continue
            inner = name_field(path, key.value)
            if key.tag == _MERGE:
                self._tell(key, path, "a merge key (<<); expected its entries written out")
            elif key.value in seen:
                first, same = seen[key.value]
                if not (self._repeats and _same(self.copy(value, inner, depth + 1), same)):
                    self._tell(key, inner, f"given twice, first on line {line_of(first)}; expected it once")
            else:
                entries.append((self.copy(key, inner, depth + 1), self.copy(value, inner, depth + 1)))
                seen[key.value] = entries[-1]
        return entries

    def _copy_text(self, node: yaml.ScalarNode, path: str) -> yaml.ScalarNode:
        self._size += len(node.value)
        unfit = _UNFIT.search(node.value)
        if unfit:
            self._tell(node, path, f"the character U+{ord(unfit[0]):04X}; {_FIT}")
        tag = node.tag if node.tag in _TEXT_TAGS else _CORE + "str"
        value, style = ("~", None) if tag == NULL else (node.value, node.style)
        return yaml.ScalarNode(tag, value, node.start_mark, node.end_mark, style)

    def _tell(self, node: yaml.Node, path: str, text: str) -> None:
        self._faults.append(Fault(line=line_of(node), field=path, text=text))


def walk_texts(node: yaml.Node, path: str) -> Iterator[tuple[yaml.ScalarNode, str]]:
    """All texts of a tree with their paths; keys have those of their entries."""
    if isinstance(node, yaml.ScalarNode):
        yield node, path
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value, 1):
            yield from walk_texts(item, f"{path}[{number}]")
    else:
        for key, value in node.value:
            yield key, name_field(path, key.value)
            yield from walk_texts(value, name_field(path, key.value))


def write_lines(root: yaml.Node) -> tuple[str, ...] | None:
    """CI-51: a tree as lines of a body, which read again are the same texts; None if there is no such way.

    Texts stand as they were written; where that cannot be, all of them in double quotes.
    """
    for node in (root, _quote(root)):
        text = yaml.serialize(node, Dumper=yaml.SafeDumper, width=_WIDTH, allow_unicode=True)
        lines = tuple(text.removesuffix("\n").split("\n"))
        if max(map(len, lines)) <= MAX_LINE and _reads_as(text, root):
            return lines
    return None


def _quote(node: yaml.Node) -> yaml.Node:
    marks = (node.start_mark, node.end_mark)
    if isinstance(node, yaml.ScalarNode):
        return node if node.tag == NULL else yaml.ScalarNode(_CORE + "str", node.value, *marks, style='"')
    if isinstance(node, yaml.SequenceNode):
        return yaml.SequenceNode(node.tag, [_quote(item) for item in node.value], *marks, flow_style=False)
    entries = [(_quote(key), _quote(value)) for key, value in node.value]
    return yaml.MappingNode(node.tag, entries, *marks, flow_style=False)


def _reads_as(text: str, root: yaml.Node) -> bool:
    try:
        again, faults = compose(text.encode())
    except Stopped:
        return False
    return not faults and again is not None and _same(again, root)


def _same(one: yaml.Node, other: yaml.Node) -> bool:
    if isinstance(one, yaml.ScalarNode) and isinstance(other, yaml.ScalarNode):
        return bool(one.value == other.value and (one.tag == NULL) == (other.tag == NULL))
    if type(one) is not type(other) or len(one.value) != len(other.value):
        return False
    if isinstance(one, yaml.SequenceNode):
        return all(map(_same, one.value, other.value))
    pairs = zip(one.value, other.value, strict=True)
    return all(_same(a[0], b[0]) and _same(a[1], b[1]) for a, b in pairs)
