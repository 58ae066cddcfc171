"""Values in the files of an institution: paths, volumes, hosts, numbers. What is wrong is told by line and field."""

import ipaddress
import os
import re
from collections.abc import Sequence
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

import yaml

from swarmlearning.errors import InvalidName
from swarmlearning.tasks.faults import Fault, show_text
from swarmlearning.tasks.fields import Fields, read_text, tell
from swarmlearning.types import Endpoint

MAX_PATH: Final = 4000
"""Longest path, characters."""

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_VOLUME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")

VOLUME_NAME: Final = "a volume's name of 1-128 characters of A-Z a-z 0-9 . _ -"


class ValueFields(Fields):
    """Fields whose values have a form of their own. What cannot be used is a fault and reads as if it were left out."""

    def __init__(
        self, faults: list[Fault], node: yaml.Node, path: str, known: Sequence[str], *, directory: str = ""
    ) -> None:
        """Read a mapping; `directory` is where paths begin that do not begin at the root, empty: they must."""
        super().__init__(faults, node, path, known)
        self._directory = directory

    def number(self, key: str, least: int, most: int, *, required: bool = False) -> int | None:
        """A whole number."""
        node = self.find(key, required=required)
        if node is None:
            return None
        text = read_text(self._faults, node, self.path(key))
        if text and not (_NUMBER.fullmatch(text) and least <= int(text) <= most):
            self._tell(node, key, f"expected a number from {least} to {most}, got {show_text(text)}")
            return None
        return int(text) if text else None

    def switch(self, key: str, *, default: bool) -> bool:
        """Yes or no."""
        node = self.find(key)
        if node is None:
            return default
        word = read_text(self._faults, node, self.path(key))
        if word.lower() not in ("true", "false", "yes", "no"):
            if word:
                self._tell(node, key, f"expected true or false, got {show_text(word)}")
            return default
        return word.lower() in ("true", "yes")

    def host(self, key: str) -> str | None:
        """A host's name or IP address."""
        node, text = self._text(key)
        if node is None or is_host(text):
            return text or None
        self._tell(node, key, f"expected a host's name or an IP address, got {show_text(text)}")
        return None

    def address(self, key: str) -> str | None:
        """An IP address."""
        node, text = self._text(key)
        if node is None or is_address(text):
            return text or None
        self._tell(node, key, f"expected an IP address, got {show_text(text)}")
        return None

    def endpoint(self, key: str, default_port: int) -> Endpoint | None:
        """A host with or without a port."""
        node, text = self._text(key)
        if node is None:
            return None
        try:
            endpoint = Endpoint.parse(text, default_port)
        except InvalidName as error:
            self._tell(node, key, str(error))
            return None
        if not is_host(endpoint.host):
            self._tell(node, key, f"expected a host's name with or without a port, got {show_text(text)}")
            return None
        return endpoint

    def file(self, key: str, *, required: bool = False) -> str | None:
        """A path on this host, from the root; of a file or a directory, which need not be there."""
        node, text = self._text(key, required=required)
        if node is None:
            return None
        problem = explain_path(text)
        if not problem and not text.startswith("/") and not self._directory:
            problem = f"expected a path that begins with /, got {show_text(text)}"
        if problem:
            self._tell(node, key, problem)
            return None
        return os.path.join(self._directory, text)  # noqa: PTH118 - pathlib would drop the `.` and `/` that were written

    def local_uri(self, key: str) -> str | None:
        """A path as in `file`, or one as `file:///…`."""
        node, text = self._text(key)
        if node is None:
            return None
        if ":" not in text.split("/")[0]:
            return self.file(key)
        path = _path_of_uri(text)
        if path is None or explain_path(path):
            self._tell(node, key, f"expected a path of this host, also as file:///..., got {show_text(text)}")
            return None
        return path

    def inside(self, key: str) -> str:
        """A path within something else; empty where it is left out."""
        node, text = self._text(key)
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if node is not None and (text.startswith("/") or ".." in parts or explain_path(text)):
            self._tell(node, key, f"expected a path that stays within the source, got {show_text(text)}")
            return ""
        return "/".join(parts)

    def target(self, key: str, *, required: bool = True) -> str:
        """Where something is seen in a container."""
        node, text = self._text(key, required=required)
        if node is not None and (not text.startswith("/") or ".." in text.split("/") or explain_path(text)):
            self._tell(node, key, f"expected a path that begins with / and is without .., got {show_text(text)}")
            return ""
        return text

    def source(self, key: str, kind: str) -> str:
        """A path of this host with kind `BIND`, else a volume's name."""
        if kind != "VOLUME":
            return self.file(key, required=True) or ""
        node, text = self._text(key, required=True)
        if node is not None and not _VOLUME.fullmatch(text):
            self._tell(node, key, f"expected {VOLUME_NAME}, got {show_text(text)}; a path needs mType BIND")
            return ""
        return text

    def mount_kind(self, key: str) -> Literal["BIND", "VOLUME"]:
        """`BIND` or `VOLUME`."""
        return "VOLUME" if self.choice(key, ("BIND", "VOLUME")) == "VOLUME" else "BIND"

    def _text(self, key: str, *, required: bool = False) -> tuple[yaml.Node | None, str]:
        """A text and its node; no node where there is no text."""
        node = self.find(key, required=required)
        text = "" if node is None else read_text(self._faults, node, self.path(key), most=MAX_PATH)
        return (node if text else None), text

    def _tell(self, node: yaml.Node, key: str, text: str) -> None:
        tell(self._faults, node, self.path(key), text)


def is_volume(text: str) -> bool:
    """Whether a volume can be called so; no such name is a path."""
    return bool(_VOLUME.fullmatch(text))


def is_host(text: str) -> bool:
    """Whether it can be a host's name or an IP address."""
    return bool(_HOST.fullmatch(text)) or is_address(text)


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def explain_path(text: str) -> str:
    """What is wrong with a path on any host; empty if nothing."""
    if text.startswith("~"):
        return f"expected a path without ~, got {show_text(text)}; write the directory out"
    if "\0" in text or not text.isprintable():
        return f"expected a path of printable characters, got {show_text(text)}"
    return ""


def _path_of_uri(text: str) -> str | None:
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        return None
    path = unquote(parts.path, errors="replace")
    return path if path.startswith("/") else None
