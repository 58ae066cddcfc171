"""What the containers of a pair see of the host, and what a program's must never see.

Spec: docs/spec/swop-containers.md, SW-73 and SW-74.
"""

import os
import posixpath
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers.boundary import Pair
from swarmlearning.swop.managers.process_mounts import HOST_TREES, check_place
from swarmlearning.swop.matching import is_within
from swarmlearning.swop.profile import Attribute, IdentityPart

CHANNEL_TARGET: Final = "/run/swarm"
"""Where both containers see the volume through which they meet."""

CONTROL: Final = CHANNEL_TARGET + "/control"
"""In it: the SL's socket and the files with parameters (`SWARM_SL`, `SWARM_EXCHANGE_DIR`)."""

DATA_TARGET: Final = "/var/lib/swarm"
"""Where an SL's container sees what it keeps."""

DATA: Final = DATA_TARGET + "/data"
READY: Final = DATA + "/ready.json"
"""Where a program cannot write it. Empty until the SL is ready."""

_OWN_TARGETS: Final = (CHANNEL_TARGET, "/proc", "/sys", "/dev")
"""Nothing may be mounted there or below."""

Json = dict[str, object]
"""What an engine is told, as its API has it."""

OPTIONS: Final = {
    IdentityPart.CERT: "--cert",
    IdentityPart.KEY: "--key",
    IdentityPart.CACERT: "--cacert",
    IdentityPart.CAPATH: "--capath",
}
"""Options of `swarm sl`."""


class Fence(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of this host that no program may be given anything of, resolved."""

    paths: tuple[tuple[str, str], ...]
    """Path, and what is there, for messages."""

    def check(self, source: str, what: str) -> str:
        """The directory `source` without links and `..`, which is what is then mounted.

        Raises:
            ConfigurationError: it is no absolute path, holds a forbidden one, or lies within one.
        """
        if not source.startswith("/") or "\0" in source:
            raise ConfigurationError(f"{what} {source!r}: expected an absolute path of this host")
        resolved = os.path.realpath(source)
        for path, there in self.paths:
            if is_within(resolved, path) or is_within(path, resolved):
                shown = source if resolved == os.path.normpath(source) else f"{source} (which is {resolved})"
                raise ConfigurationError(
                    f"{what} {shown} is refused: no program may see {path} ({there}); name another directory"
                )
        return resolved


def make_fence(data: str, socket: str | None, secrets: Iterable[str]) -> Fence:
    """What is kept from programs: the host's own directories, the agent's, the engine's socket, identities."""
    named = [(path, "the host's own") for path in ("/", *HOST_TREES)]
    named.append((data, "the agent's data"))
    if socket is not None:
        named.append((socket, "the engine's socket"))
    named += [(path, "an identity") for path in secrets]
    # `/` holds everything: only itself is forbidden by it, which every other entry forbids already.
    resolved = ((os.path.realpath(path), there) for path, there in named if path != "/")
    return Fence(paths=tuple(dict(resolved).items()))


def identity_files(pair: Pair) -> list[str]:
    """Where the pair's SL has its identity on this host."""
    return [attribute.source for attribute in pair.node.identity if attribute.kind == "BIND"]


def identity_mounts(pair: Pair) -> list[Json]:
    """The SL's identity at its targets, read-only; several parts of one source at one target are mounted once."""
    mounts: dict[tuple[str, str], Json] = {}
    for attribute in pair.node.identity:
        what = f"target of {attribute.part.value}"
        mounts[attribute.source, attribute.target] = _mount(
            attribute.kind.lower(), attribute.source, check_target(attribute.target, what), read_only=True
        )
    return list(mounts.values())


def identity_arguments(pair: Pair) -> list[str]:
    """Options that tell the SL where its identity is, within its container."""
    words: list[str] = []
    for attribute in pair.node.identity:
        option = OPTIONS.get(attribute.part)
        if option is not None:
            words += [option, _seen_at(attribute)]
    return words


def _seen_at(attribute: Attribute) -> str:
    return posixpath.join(attribute.target, attribute.sub_path) if attribute.sub_path else attribute.target


def program_mounts(pair: Pair, fence: Fence, volume: Callable[[str], str]) -> list[Json]:
    """What the program sees: private data, read-only, and shared content.

    Args:
        pair: whose program.
        fence: what it must not see.
        volume: gives the engine's name of a volume, by the one that tasks and profiles use.

    Raises:
        ConfigurationError: a source is refused, or a target cannot be one.
    """
    mounts: list[Json] = []
    data, target = pair.node.private_data, pair.body.private_content
    if data is not None and target is not None:
        source = fence.check(data.source, "private data") if data.kind == "BIND" else volume(data.source)
        mounts.append(_mount(data.kind.lower(), source, check_target(target, "PrivateContent"), read_only=True))
    for number, content in enumerate(pair.body.shared_content):
        bind = content.kind == "BIND"
        source = fence.check(content.source, "SharedContent") if bind else volume(content.source)
        if bind:
            check_place(pair, number, source, f"SharedContent {content.source!r}")
        where = check_target(content.target, "SharedContent's Tgt")
        mounts.append(_mount(content.kind.lower(), source, where, read_only=False))
    targets = [mount["Target"] for mount in mounts]
    if twice := next((target for target in targets if targets.count(target) > 1), None):
        raise ConfigurationError(f"two things are to be mounted at {twice}: expected another target for one of them")
    return mounts


def volume_mount(name: str, target: str) -> Json:
    """A volume of ours."""
    return _mount("volume", name, target, read_only=False)


def check_target(target: str, what: str) -> str:
    """A path in a container, without `..`.

    Raises:
        ConfigurationError: it is not absolute, or nothing can be mounted there.
    """
    path = posixpath.normpath(target)
    if not path.startswith("/") or path.strip("/") == "" or "\0" in path:
        raise ConfigurationError(f"{what} {target!r}: expected an absolute path within the container, not / itself")
    if any(is_within(path, own) for own in _OWN_TARGETS):
        raise ConfigurationError(f"{what} {target!r}: nothing can be mounted there; name another path")
    return path


def _mount(kind: str, source: str, target: str, *, read_only: bool) -> Json:
    return {"Type": kind, "Source": source, "Target": target, "ReadOnly": read_only}
