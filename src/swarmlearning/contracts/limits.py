"""Limits on everything a message brings in, so that no sender can make the state grow or mislead a terminal.

Deterministic on every machine: nothing here depends on the Unicode tables of a Python version.
"""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from swarmlearning.contracts.context import Rejected
from swarmlearning.contracts.records import Manifested, Progress, Settings
from swarmlearning.errors import InvalidName
from swarmlearning.types import Code, Endpoint, NodeName, Role

MAX_TEXT: Final = 200
"""Longest free text on the ledger, characters."""

HASH_BYTES: Final = 32

MAX_MODEL_BYTES: Final = 1 << 40

_INT_LIMIT: Final = 1 << 62

_OPTION: Final = re.compile("[a-z][a-z0-9_]{0,31}")


def clean_text(text: str) -> str:
    """T-9: at most `MAX_TEXT` characters of `text`, control characters replaced: others will show it on terminals."""
    return "".join("?" if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in text[:MAX_TEXT])


def clean_bytes(text: str, most: int) -> str:
    """W-12: the beginning of `text` of at most `most` bytes as UTF-8, control characters replaced."""
    # Cut first: what is replaced has one byte or two, and its replacement one.
    cut = text[:most].encode()[:most].decode(errors="ignore")
    return "".join("?" if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in cut)


def has_controls(text: str) -> bool:
    """Whether `text` holds control characters; by numbers, not by what a version of Python calls so."""
    return any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text)


MAX_GRACE_MS: Final = 86_400_000


def _check_limits(limits: Iterable[tuple[str, int, int, int]]) -> None:
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise Rejected(Code.MALFORMED, f"setting {name} = {value}: expected {low} to {high}")


def check_settings(settings: Settings) -> None:
    """T-2: settings lie within their limits.

    Raises:
        Rejected: one does not; the log names it.
    """
    limits = (
        ("sync_frequency", settings.sync_frequency, 1, 1_000_000_000),
        ("witnesses", settings.witnesses, -1, 2),
        ("grace_ms", settings.grace_ms, 0, MAX_GRACE_MS),
        ("lease_ms", settings.lease_ms, 100, 86_400_000),
        ("round_max_ms", settings.round_max_ms, 1_000, 7 * 86_400_000),
    )
    _check_limits(limits)
    if settings.adaptive is not None:
        bounds = (
            ("adaptive.shortest", settings.adaptive.shortest, 1, settings.sync_frequency),
            ("adaptive.longest", settings.adaptive.longest, settings.sync_frequency, 1_000_000_000),
            ("adaptive.factor_percent", settings.adaptive.factor_percent, 101, 1_000),
            ("adaptive.window", settings.adaptive.window, 1, 100),
        )
        _check_limits(bounds)
    if settings.target is not None:
        _check_limits((("target.patience", settings.target.patience, 1, 1_000),))
        figures = (settings.target.loss_micro, settings.target.metric_micro)
        if figures == (None, None) or any(abs(figure or 0) > _INT_LIMIT for figure in figures):
            raise Rejected(Code.MALFORMED, "setting target: expected a loss or a metric of at most 2^62 millionths")
    method = settings.merge_method
    if not 1 <= len(method) <= 64 or any(not 33 <= ord(c) <= 126 for c in method):
        raise Rejected(Code.MALFORMED, "setting merge_method: expected a name of 1-64 printable ASCII characters")
    _check_method(settings)


MAX_OPTIONS: Final = 8
"""Most options of a merge method."""


def _check_method(settings: Settings) -> None:
    """T-2: what is said of the merge method is short and printable, and its options stand in one order."""
    names = [name for name, _ in settings.merge_options]
    if len(names) > MAX_OPTIONS or names != sorted(set(names)) or any(not _OPTION.fullmatch(name) for name in names):
        raise Rejected(
            Code.MALFORMED, f"setting merge_options: expected at most {MAX_OPTIONS} lower-case names, rising, each once"
        )
    _check_limits((f"merge_options.{name}", value, -_INT_LIMIT, _INT_LIMIT) for name, value in settings.merge_options)
    if settings.wire != "float32" and settings.needs == "history":
        raise Rejected(
            Code.MALFORMED,
            f"setting wire = {settings.wire}: {settings.merge_method} needs whole results; expected float32 with it",
        )
    source = settings.method_source
    if len(source) > MAX_TEXT or clean_text(source) != source:
        raise Rejected(Code.MALFORMED, f"setting method_source: expected at most {MAX_TEXT} printable characters")


def check_progress(progress: Progress) -> None:
    """T-9: what a peer tells of itself stays within limits.

    Raises:
        Rejected: it does not.
    """
    numbers = [v for v in msgspec.structs.astuple(progress) if isinstance(v, int)]
    name = progress.metric_name
    if any(abs(v) > _INT_LIMIT for v in numbers) or len(name) > 64 or clean_text(name) != name:
        raise Rejected(
            Code.MALFORMED, "progress: expected numbers up to 2^62 and a metric name of at most 64 characters"
        )


def check_manifest(manifest: Manifested) -> None:
    """T-6: a model is named by a hash and has a size that somebody can hold.

    Raises:
        Rejected: it is not, or has not.
    """
    if len(manifest.hash) != HASH_BYTES or not 0 <= manifest.size <= MAX_MODEL_BYTES:
        raise Rejected(Code.MALFORMED, "manifest: expected a hash of 32 bytes and a size of at most 2^40 bytes")


def check_endpoint(endpoint: Endpoint) -> None:
    """M-5: an address is short and printable, and a relay is an SN.

    Raises:
        Rejected: it is not.
    """
    if any(not 33 <= ord(c) <= 126 for c in endpoint.host):
        raise Rejected(Code.MALFORMED, "endpoint: expected a DNS name or an IP address of printable ASCII characters")
    if not endpoint.via:
        return
    try:
        relay = NodeName.parse(endpoint.via)
    except InvalidName as error:
        raise Rejected(Code.MALFORMED, f"endpoint via: {error}") from error
    if relay.role is not Role.SN:
        raise Rejected(Code.MALFORMED, f"endpoint via {relay.short}: expected an SN, not {relay.role.value}")
