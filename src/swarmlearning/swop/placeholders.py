"""Placeholders in a profile, such as `<PROJECT-CERTS>`: the product's examples leave them to whoever installs them."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec
import yaml

from swarmlearning.errors import ConfigurationError
from swarmlearning.tasks.faults import Fault, line_of, name_field, show_text

_PLACEHOLDER: Final = re.compile(r"<([A-Za-z][A-Za-z0-9_.-]{0,99})>")

_LEFT: Final = re.compile(r"[A-Z][A-Z0-9_.-]*")
"""What is taken for a placeholder though nobody gave it a value: other texts in angle brackets may be meant so."""


def parse_settings(texts: tuple[str, ...]) -> dict[str, str]:
    """The values of placeholders, each given as `NAME=VALUE`.

    Raises:
        ConfigurationError: one is given otherwise, or twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        name = name.removeprefix("<").removesuffix(">")
        if not sign or not _PLACEHOLDER.fullmatch(f"<{name}>"):
            raise ConfigurationError(f"--set {show_text(text)}: expected NAME=VALUE, such as PROJECT-CERTS=/etc/swarm")
        if not value.isprintable():
            raise ConfigurationError(f"--set {name}: the value has characters that cannot be printed; expected a text")
        if name in found:
            raise ConfigurationError(f"--set {name}: given twice; expected it once")
        found[name] = value
    return found


class Filled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a tree's placeholders."""

    used: frozenset[str]
    """The names that were there."""
    left: frozenset[tuple[int, str]]
    """Line and field of what has no value."""


def fill_placeholders(
    root: yaml.Node, settings: Mapping[str, str], faults: list[Fault], *, without: frozenset[str]
) -> Filled:
    """Put values in the place of placeholders, in all texts of a tree, and tell those that have none, each once.

    Args:
        root: the tree, which is changed.
        settings: values by name.
        faults: what is wrong is added.
        without: fields of the root in which what is left does not matter.
    """
    filler = _Filler(settings)
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            filler.fill(value, name_field("", key.value), matters=key.value not in without)
    else:
        filler.fill(root, "", matters=True)
    for name, places in filler.left.items():
        line, path = places[0]
        times = f" ({len(places)} times)" if len(places) > 1 else ""
        text = f"the placeholder <{name}>{times} has no value; give it with --set {name}=VALUE, or write it out"
        faults.append(Fault(line=line, field=path, text=text))
    left = frozenset(place for places in filler.left.values() for place in places)
    return Filled(used=frozenset(filler.used), left=left)


class _Filler:
    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings
        self.used: set[str] = set()
        self.left: dict[str, list[tuple[int, str]]] = {}

    def fill(self, node: yaml.Node, path: str, *, matters: bool) -> None:
        if isinstance(node, yaml.ScalarNode):
            for name in dict.fromkeys(_PLACEHOLDER.findall(node.value)):
                self.used.add(name)
                if matters and name not in self._settings and _LEFT.fullmatch(name):
                    self.left.setdefault(name, []).append((line_of(node), path))
            # In one go: a value is not looked at again.
            node.value = _PLACEHOLDER.sub(lambda match: self._settings.get(match[1], match[0]), node.value)
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value, 1):
                self.fill(item, f"{path}[{number}]", matters=matters)
        else:
            for key, value in node.value:
                self.fill(value, name_field(path, key.value), matters=matters)
