"""What a program brings to a training, checked before anything is connected.

The ledger checks the same when a peer enrols; here it is the user's mistake, said at once.
"""

from typing import TypeVar

import msgspec

from swarmlearning.contracts.context import Rejected
from swarmlearning.contracts.limits import check_settings
from swarmlearning.contracts.records import MAX_PEERS, MAX_WEIGHT, Progress, Settings
from swarmlearning.errors import ConfigurationError
from swarmlearning.types import DEFAULT_CONTRACT, ContractName, check_contract_name

S = TypeVar("S", bound=msgspec.Struct)


class SessionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a program brings to a training."""

    settings: Settings = Settings(sync_frequency=1)
    min_peers: int
    contract: ContractName = DEFAULT_CONTRACT
    weight: int = 1
    restored: bool = False
    """It starts from a private checkpoint, so that round 0 does not draw its parameters."""
    share: bool = True
    """Whether what `Progress` says may go on the ledger, for all peers to see."""
    program: str = ""
    """For people; by default the script's name."""
    connect_wait_s: float = 60.0
    """How long to wait for the SL to listen, the first time."""


def check_config(config: SessionConfig) -> None:
    """Refuse a configuration that no swarm takes.

    Raises:
        ConfigurationError: a field has another type or range than documented; says which.
        InvalidName: the contract's name is malformed.
    """
    check_contract_name(config.contract)
    _check_types("SessionConfig", config)
    for name, value, high in (("min_peers", config.min_peers, MAX_PEERS), ("weight", config.weight, MAX_WEIGHT)):
        if not 1 <= value <= high:
            raise ConfigurationError(f"SessionConfig: {name} = {value}: expected 1 to {high}")
    try:
        check_settings(config.settings)
    except Rejected as rejected:
        raise ConfigurationError(f"Settings: {rejected.log.removeprefix('setting ')}") from rejected


def check_progress(progress: object) -> Progress:
    """The progress that a program gave, or none.

    Raises:
        ConfigurationError: it is not a `Progress`, or a field has another type.
    """
    if progress is None:
        return Progress()
    if not isinstance(progress, Progress):
        raise ConfigurationError(
            f"progress: expected a swarmlearning.contracts.records.Progress, got {type(progress).__name__}"
        )
    _check_types("Progress", progress)
    return progress


def _check_types(what: str, record: msgspec.Struct) -> None:
    """Structs check types when they are decoded, and not when a program makes them.

    Raises:
        ConfigurationError: a field has another type than declared.
    """
    try:
        msgspec.convert(msgspec.to_builtins(record), type(record))
    except (msgspec.ValidationError, TypeError) as error:
        raise ConfigurationError(f"{what}: {error}") from error
