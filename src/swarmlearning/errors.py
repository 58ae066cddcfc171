"""Every error this project raises on purpose, by whose fault it is.

    SwarmError
    ├── ConfigurationError        what the user gave us cannot work; exit 2
    │   ├── InvalidName           a name, identity or address is malformed
    │   ├── NotFound              there is none of the name that was given
    │   ├── IdentityError         own certificate, key or trust roots: missing, expired, not matching
    │   ├── SettingsMismatch      this peer's settings differ from those the contract was fixed with
    │   ├── ModelMismatch         this peer's model has other tensors than the contract's
    │   └── NotYetAvailable       a documented option that arrives in a later release
    ├── PeerError                 another party's data or behaviour is wrong; exit 3
    │   ├── DecodeError           bytes from outside are not what they claim to be
    │   ├── VerificationError     a hash, signature or proof does not hold
    │   ├── NonFinite             parameters hold NaN or infinity
    │   ├── Refused               a node or the ledger refused a request, and says why
    │   ├── TaskFailed            a step of a task failed on this host: a build, a download, an archive
    │   └── ForkDetected          two signed headers for one height; the network stops
    ├── Unreachable               a node does not answer; exit 4
    │   ├── WaitExpired           a wait reached its limit; says what was waited for
    │   └── AddressInUse          a port we were told to listen on is taken
    ├── Closed                    we closed it: used after close, cancelled, training over
    └── Broken                    an invariant of ours does not hold: a bug or a damaged disk; exit 70

Each message is one line: what was expected, what was got, what to do. Exit codes are stable; a deleted one is never
used again.
"""

import enum

__all__ = [
    "AddressInUse",
    "Broken",
    "Closed",
    "ConfigurationError",
    "DecodeError",
    "ExitCode",
    "ForkDetected",
    "IdentityError",
    "InvalidName",
    "ModelMismatch",
    "NonFinite",
    "NotFound",
    "NotYetAvailable",
    "PeerError",
    "Refused",
    "SettingsMismatch",
    "SwarmError",
    "TaskFailed",
    "Unreachable",
    "VerificationError",
    "WaitExpired",
    "exit_code",
]


class ExitCode(enum.IntEnum):
    """What `swarm` commands exit with."""

    OK = 0
    FAILED = 1  # a program we ran failed, peers ended with different models, or a check found a problem
    CONFIGURATION = 2
    PEER = 3
    UNREACHABLE = 4
    BROKEN = 70
    INTERRUPTED = 130


class SwarmError(Exception):
    """Root of all errors this project raises on purpose."""


class ConfigurationError(SwarmError):
    """What the user gave us cannot work."""


class InvalidName(ConfigurationError):
    """A name, identity or address is malformed."""


class NotFound(ConfigurationError):
    """There is none of the name that was given; the message says which there are."""


class IdentityError(ConfigurationError):
    """Our own certificate, key or trust roots are missing, expired or do not match."""


class SettingsMismatch(ConfigurationError):
    """This peer's settings differ from those the contract was fixed with."""


class ModelMismatch(ConfigurationError):
    """This peer's model has other tensors than the contract's."""


class NotYetAvailable(ConfigurationError):
    """A documented option that arrives in a later release."""


class PeerError(SwarmError):
    """Another party's data or behaviour is wrong."""


class DecodeError(PeerError):
    """Bytes from outside are not what they claim to be."""


class VerificationError(PeerError):
    """A hash, signature or proof does not hold."""


class NonFinite(PeerError):
    """Parameters hold NaN or infinity."""


class Refused(PeerError):
    """A node or the ledger refused a request; `code` is stable and for programs, the message for people."""

    def __init__(self, message: str, *, code: str = "refused") -> None:
        super().__init__(message)
        self.code = code


class TaskFailed(PeerError):
    """A step of a task failed on this host.

    Attributes:
        exit_status: of the program that failed, as a shell shows it; None where none did.
    """

    def __init__(self, message: str, *, exit_status: int | None = None) -> None:
        """Say what failed."""
        super().__init__(message)
        self.exit_status = exit_status


class ForkDetected(PeerError):
    """Two signed headers for one height: whoever orders the ledger lied. The network stops."""


class Unreachable(SwarmError):
    """A node does not answer."""


class WaitExpired(Unreachable):
    """A wait reached its limit; the message says what was waited for."""


class AddressInUse(Unreachable):
    """A port we were told to listen on is taken."""


class Closed(SwarmError):
    """Ours: used after close, cancelled, or the training is over."""


class Broken(SwarmError):
    """An invariant of ours does not hold: a bug, or a damaged disk."""


def exit_code(error: SwarmError) -> ExitCode:
    """The exit status of a command that ends with `error`."""
    match error:
        case ConfigurationError():
            return ExitCode.CONFIGURATION
        case PeerError():
            return ExitCode.PEER
        case Unreachable():
            return ExitCode.UNREACHABLE
        case Broken():
            return ExitCode.BROKEN
        case _:
            return ExitCode.FAILED
