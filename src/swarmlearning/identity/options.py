"""The `--cert --key --cacert --capath` options that every command with an identity shares."""

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from swarmlearning.identity.source import (
    CACERT_VARIABLE,
    CAPATH_VARIABLE,
    CERT_VARIABLE,
    KEY_VARIABLE,
    PemSource,
)

R = TypeVar("R")

_OPTIONS: Final = (
    ("--cert", CERT_VARIABLE, "FILE", "This node's certificate, PEM."),
    ("--key", KEY_VARIABLE, "FILE", "The certificate's private key, PEM, mode 0600."),
    ("--cacert", CACERT_VARIABLE, "FILE", "CA certificates of this node's own organisation, PEM."),
    ("--capath", CAPATH_VARIABLE, "DIR", "Directory of CA certificates, where there is no --cacert."),
)


def identity_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the identity options (or `SWARM_ID_*` variables) to a command, which gets a `PemSource` as `identity`.

    Nothing is read yet. Where something is not given the command ends with an `IdentityError` that names it.
    """

    # `Any`: click passes whatever other options the command has.
    @functools.wraps(command)
    def with_identity(
        *args: Any,  # noqa: ANN401
        cert: str | None,
        key: str | None,
        cacert: str | None,
        capath: str | None,
        **others: Any,  # noqa: ANN401
    ) -> R:
        return command(*args, identity=PemSource.from_paths(cert, key, cacert, capath), **others)

    return path_options(with_identity)


def path_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the identity options to a command that can do without; it gets `cert`, `key`, `cacert`, `capath` as given."""
    decorated = command
    for name, variable, metavar, text in reversed(_OPTIONS):
        decorated = click.option(name, envvar=variable, show_envvar=True, metavar=metavar, help=text)(decorated)
    return decorated
