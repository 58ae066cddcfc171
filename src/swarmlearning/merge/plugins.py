"""Merge methods that other distributions bring: found by entry point, named by the hash of their files.

The hash tells peers whose code differs that it does. It is an identity check and not attestation: a peer that wants to
lie about its code can.

Does not: isolate a plug-in; it runs with all that the process may do. Spec: docs/spec/merging.md, G-90 to G-95.
"""

import hashlib
from collections.abc import Sequence
from importlib.metadata import Distribution, EntryPoint, PackagePath, entry_points
from typing import Final, get_args

from swarmlearning.errors import ConfigurationError, SwarmError
from swarmlearning.merge.base import MAX_WEIGHT_SUM, Float64, MergeMethod, Needs, Options
from swarmlearning.parameters.dtypes import Array

GROUP: Final = "swarmlearning.merge_methods"
"""Entry points of this group name merge methods."""

MAX_SOURCE: Final = 200
"""Longest source, characters."""

_MADE_ON_INSTALLING: Final = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
"""Of a distribution's metadata: what says how it was installed, not what it is."""


def plugin_names() -> list[str]:
    """Names of all methods that installed distributions bring; none of them is imported."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_plugin(name: str, options: Options) -> MergeMethod | None:
    """Load the method that a plug-in brings; None if none brings it.

    Raises:
        ConfigurationError: several distributions bring it, its distribution cannot be hashed, it fails to load, is no
            merge method, or refuses the options.
    """
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        return None
    brought_by = sorted({point.dist.name if point.dist is not None else "?" for point in found})
    if len(brought_by) > 1:
        raise ConfigurationError(f"merge method {name!r} is brought by {', '.join(brought_by)}; uninstall all but one")
    point = found[0]
    source = source_of(point)
    return _Plugin(name, _make(point, options), source)


def source_of(point: EntryPoint) -> str:
    """Distribution, version and SHA-256 of its installed files: `acme-merge 1.2.0 sha256:...`.

    Raises:
        ConfigurationError: the files are not listed, the module is not among them (an editable installation), or one
            cannot be read.
    """
    dist = point.dist
    if dist is None:
        raise ConfigurationError(f"merge method {point.name!r} belongs to no distribution: install it as a package")
    files = _files_of(dist)
    module = point.module.replace(".", "/")
    if not any(str(file) in (f"{module}.py", f"{module}/__init__.py") for file in files):
        raise ConfigurationError(
            f"merge method {point.name!r}: {dist.name} does not list the file of its module {point.module}; "
            "an editable installation cannot be hashed: install it as a wheel"
        )
    whole = hashlib.sha256()
    for file in sorted(files, key=str):
        try:
            content = file.read_binary()
        except OSError as error:
            raise ConfigurationError(f"merge method {point.name!r}: {file} of {dist.name}: {error.strerror}") from error
        # Lengths first, so that no name or content can be taken for another's part.
        for part in (str(file).encode(), content):
            whole.update(len(part).to_bytes(8, "little") + part)
    source = f"{dist.name} {dist.version} sha256:{whole.hexdigest()}"
    if len(source) > MAX_SOURCE or not source.isascii() or not source.isprintable():
        raise ConfigurationError(
            f"merge method {point.name!r}: name and version of its distribution take {len(source)} characters; "
            f"expected at most {MAX_SOURCE} printable ones"
        )
    return source


def _files_of(dist: Distribution) -> list[PackagePath]:
    """What counts of a distribution's files: not compiled code, and not what installing it has added."""
    listed = dist.files or []
    return [
        file
        for file in listed
        if file.suffix != ".pyc" and not (file.name in _MADE_ON_INSTALLING and file.parent.name.endswith(".dist-info"))
    ]


def _make(point: EntryPoint, options: Options) -> MergeMethod:
    try:
        method = point.load()(options)
    except SwarmError:
        raise
    except Exception as error:  # whatever somebody else's code raises is one line to the user
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigurationError(f"merge method {point.name!r} ({point.value}) fails to load: {told}") from error
    if not isinstance(method, MergeMethod) or method.name != point.name or method.needs not in get_args(Needs):
        raise ConfigurationError(
            f"merge method {point.name!r}: {point.value} must make a swarmlearning.merge.base.MergeMethod of that name"
        )
    return method


class _Plugin(MergeMethod):
    """A plug-in's method: what it gives back is checked."""

    def __init__(self, name: str, method: MergeMethod, source: str) -> None:
        self.name = name
        self.needs = method.needs
        self.options = method.options
        self.source = source
        self._method = method

    def merge_block(self, blocks: Sequence[Array], weights: Sequence[int], out: Array) -> None:
        self._method.merge_block(blocks, weights, out)

    def step_block(self, mean: Array, base: Array, previous: Array | None, out: Array) -> None:
        self._method.step_block(mean, base, previous, out)

    def weigh(self, distances: Float64, weights: Sequence[int]) -> list[int]:
        found = [int(weight) for weight in self._method.weigh(distances, weights)]
        if len(found) != len(weights) or min(found) < 0 or not 1 <= sum(found) <= MAX_WEIGHT_SUM:
            raise ConfigurationError(
                f"merge method {self.name!r} ({self.source}) gave {len(found)} weights from {min(found, default=0)}, "
                f"in all {sum(found)}; expected {len(weights)} from 0, in all 1 to {MAX_WEIGHT_SUM}"
            )
        return found
