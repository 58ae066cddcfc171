"""A program without a sandbox: a directory in which the task's targets are links, and paths that are changed to match.

A program is told where its data is by paths that hold in a container: `/platform/data`. Here they lie below
`<pair>/root`: its working directory, and the values of variables and words of the command that begin with a target or
with the working directory. What a program has written down inside itself is not changed. Keeps nothing apart.

Spec: docs/spec/swop-process.md, SW-49.
"""

import shutil
from pathlib import Path

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers.build_context import remove_tree
from swarmlearning.swop.managers.process_mounts import Mounted
from swarmlearning.swop.matching import is_within


class PlainRoot(msgspec.Struct, frozen=True, kw_only=True):
    """Where a program's paths lie on the host."""

    directory: Path
    mounts: tuple[Mounted, ...]
    working_dir: str
    files: str = ""
    """Directory of the image's files, as they are to be seen from `/` on."""

    def place(self, path: str) -> str:
        """Where a path of the program's view lies."""
        return str(self.directory) + path if path != "/" else str(self.directory)

    def rewrite(self, text: str) -> str:
        """A word or value as it holds here: changed if it, or what follows `--name=`, is or lies within a target."""
        name, sign, value = text.partition("=") if text.startswith("-") else ("", "", text)
        known = [mount.target for mount in self.mounts]
        if self.working_dir != "/":
            known.append(self.working_dir)
        if self.files:
            known += [f"/{path.name}" for path in Path(self.files).iterdir()]
        return name + sign + self.place(value) if any(is_within(value, path) for path in known) else text


def make_root(root: PlainRoot) -> None:
    """Make the directory with its links, anew.

    Raises:
        ConfigurationError: a target lies within another one, or it cannot be made.
    """
    for mount in root.mounts:
        for other in root.mounts:
            if mount is not other and is_within(mount.target, other.target):
                raise ConfigurationError(
                    f"the target {mount.target} lies within the target {other.target}: without a sandbox they must lie "
                    "beside each other (install bubblewrap)"
                )
    try:
        _clear(root.directory)
        root.directory.mkdir(mode=0o700, parents=True)
        if root.files:
            shutil.copytree(root.files, root.directory, symlinks=True, dirs_exist_ok=True)
        for mount in root.mounts:
            link = Path(root.place(mount.target))
            _clear(link)
            link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            link.symlink_to(mount.source)
        working = Path(root.place(root.working_dir))
        if not any(is_within(root.working_dir, mount.target) for mount in root.mounts):
            working.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{root.directory} cannot be made: {error.strerror}") from error
    if not working.is_dir():
        raise ConfigurationError(f"WorkingDir {root.working_dir}: there is no directory {working.resolve()}")


def _clear(directory: Path) -> None:
    """Remove what an earlier start left, or an image has there; links are removed, not followed."""
    if directory.is_symlink():
        directory.unlink()
    elif directory.is_dir():
        remove_tree(directory)
    else:
        directory.unlink(missing_ok=True)
