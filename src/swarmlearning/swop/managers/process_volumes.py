"""Volumes of PROCESS: directories in the agent's data directory, by name. Spec: docs/spec/swop-content.md, SW-66."""

import re
import secrets
import shutil
from pathlib import Path
from typing import Final

from swarmlearning.errors import ConfigurationError, NotFound
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.managers.build_context import remove_tree

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def check_volume(name: str) -> str:
    """A volume's name.

    Raises:
        ConfigurationError: it cannot be used as one.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"no volume can have the name {make_printable(name)[:120]}; expected letters, digits, _ . -"
        )
    return name


def find_volume(volumes: Path, name: str) -> Path:
    """The directory that is a volume.

    Raises:
        NotFound: there is none.
        ConfigurationError: the name cannot be used.
    """
    path = volumes / check_volume(name)
    if path.is_symlink() or not path.is_dir():
        raise NotFound(
            f"no volume {name} on this host; a task MAKE_SWARM_USER_CONTENT fills one, or make the directory {path}"
        )
    return path


def make_volume(volumes: Path, name: str) -> Path:
    """The directory that is a volume; an empty one if there was none, as container engines do.

    Raises:
        ConfigurationError: the name cannot be used, or the directory cannot be made.
    """
    path = volumes / check_volume(name)
    if not path.exists() and not path.is_symlink():
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"the volume {path} cannot be made: {error.strerror}") from error
    return find_volume(volumes, name)


def replace_volume(volumes: Path, name: str, content: Path) -> None:
    """Let the directory `content` become the volume `name`; what that was is removed.

    Raises:
        ConfigurationError: the name cannot be used.
    """
    path = volumes / check_volume(name)
    volumes.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in volumes.glob(f".{name}.*"):  # by a call that was interrupted
        remove_tree(left)
    fresh = volumes / f".{name}.{secrets.token_hex(8)}"
    shutil.move(content, fresh)  # renamed, or copied from another disk
    former = volumes / f".{name}.{secrets.token_hex(8)}"
    if path.exists():
        path.rename(former)
    fresh.rename(path)
    remove_tree(former)
