"""Finding the SL of this program, and starting one where none runs.

`SWARM_SL` names a running SL; `SWARM_SN` with an identity lets the program start one: a fresh process in a session of
its own, which outlives the program until all peers have finished. Never `fork`: the program may hold GPU contexts and
threads.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.callbacks.wire import try_connect
from swarmlearning.errors import ConfigurationError, InvalidName, Unreachable
from swarmlearning.transport.route import own_address
from swarmlearning.types import SL_PORT, SN_API_PORT, Endpoint

START_WAIT_S: Final = 60.0
"""How long a started SL may take until it listens, seconds."""

_SOCKET: Final = "sl.sock"
_TAIL_LINES: Final = 15
_TAIL_BYTES: Final = 8192

# Kept so that they are not collected while they run: an SL is meant to outlive us, that is not a leak.
_started: list[subprocess.Popen[bytes]] = []


class Loopback(msgspec.Struct, frozen=True):
    """`SWARM_LOOPBACK=TRUE`: no swarm at all."""


class Attach(msgspec.Struct, frozen=True, kw_only=True):
    """A running SL."""

    socket: Path
    exchange: Path
    """Directory for parameter files, the same on both sides."""


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """An SL to be started."""

    sn: Endpoint
    """The own organisation's SN."""
    host: str
    port: int
    """Where other SLs reach it."""
    data: Path


Door = Loopback | Attach | Launch


def is_true(text: str) -> bool:
    """Whether an environment variable's value says yes."""
    return text.strip().lower() in ("1", "true", "yes")


def find_door(environ: Mapping[str, str]) -> Door:
    """Where this program meets its SL, by the environment.

    Raises:
        ConfigurationError: the environment names neither an SL nor an SN with an identity, or names them wrongly.
    """
    if is_true(environ.get("SWARM_LOOPBACK", "")):
        return Loopback()
    if environ.get("SWARM_SL"):
        return _attach(_find_socket(Path(environ["SWARM_SL"]).absolute()), environ)
    if environ.get("SWARM_SN"):
        missing = [name for name in ("SWARM_ID_CERT", "SWARM_ID_KEY") if not environ.get(name)]
        if missing:
            raise ConfigurationError(
                f"SWARM_SN is set, so an SL is to be started, but {' and '.join(missing)} "
                f"{'are' if len(missing) > 1 else 'is'} not: set the identity of the SL (SWARM_ID_CERT, SWARM_ID_KEY, "
                "SWARM_ID_CACERT)"
            )
        return _launch(environ)
    raise ConfigurationError(
        "no SL for this program: set SWARM_SL to the control directory of a running `swarm sl`, or set SWARM_SN to "
        "HOST:PORT of your organisation's SN and SWARM_ID_CERT, SWARM_ID_KEY, SWARM_ID_CACERT to an SL identity so "
        "that one is started; `swarm run` does all this for a try on one machine, SWARM_LOOPBACK=TRUE trains alone"
    )


def open_door(door: Attach | Launch, environ: Mapping[str, str], waiting: Callable[[str], None]) -> Attach:
    """The running SL behind `door`; starts it if need be.

    Raises:
        ConfigurationError: its data directory cannot be used.
        Unreachable: the SL that we started ended or did not listen in time; the message holds the tail of its log.
    """
    if isinstance(door, Attach):
        return door
    control = door.data / "control"
    found = _attach(control / _SOCKET, environ)
    running = try_connect(found.socket)
    if running is not None:
        # Started earlier by this program or its predecessor; several trainings share it.
        running.close()
        return found
    try:
        control.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (door.data / "sl.log").open("ab") as log:
            process = subprocess.Popen(
                launch_command(door),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                start_new_session=True,
            )
    except OSError as error:
        raise ConfigurationError(f"cannot start an SL in {door.data}: {error}; set SWARM_SL_DATA") from error
    _started.append(process)
    _await_listening(process, found.socket, door.data / "sl.log", waiting)
    return found


def launch_command(door: Launch) -> list[str]:
    """The command line of the SL to be started."""
    # A fresh interpreter of the same environment, whatever `swarm` is on the PATH.
    return [
        *(sys.executable, "-m", "swarmlearning", "sl"),
        *("--sn", str(door.sn)),
        *("--host-ip", door.host),
        *("--sl-fs-port", str(door.port)),
        *("--data", str(door.data)),
        *("--control", str(door.data / "control")),
        "--exit-when-done",
    ]


def _find_socket(given: Path) -> Path:
    """The socket that SWARM_SL means. An SL may come later, its control directory may not: that is a wrong path."""
    if given.is_dir():
        return given / _SOCKET
    if given.exists() or (given.name == _SOCKET and given.parent.is_dir()):
        return given
    missing = given.parent if given.name == _SOCKET else given
    raise ConfigurationError(
        f"SWARM_SL is {given}, but there is no directory {missing}: set it to the control directory of a running "
        "`swarm sl` (its --control)"
    )


def _attach(sock: Path, environ: Mapping[str, str]) -> Attach:
    exchange = environ.get("SWARM_EXCHANGE_DIR")
    return Attach(socket=sock, exchange=Path(exchange).absolute() if exchange else sock.parent)


def _launch(environ: Mapping[str, str]) -> Launch:
    sn = Endpoint.parse(environ["SWARM_SN"], SN_API_PORT)
    text = environ.get("SWARM_SL_FS_PORT", str(SL_PORT))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise InvalidName(f"SWARM_SL_FS_PORT is {text!r}: expected a port of 1-65535")
    host = environ.get("SWARM_SL_HOST_IP") or _own_address(sn)
    data = environ.get("SWARM_SL_DATA")
    home = Path(data).absolute() if data else Path.home() / ".swarmlearning" / f"sl-{text}"
    return Launch(sn=sn, host=host, port=int(text), data=home)


def _own_address(sn: Endpoint) -> str:
    try:
        return own_address(sn)
    except OSError as error:
        raise ConfigurationError(
            f"cannot tell this machine's address on the way to the SN {sn} ({error}): correct SWARM_SN, or set "
            "SWARM_SL_HOST_IP to the address by which other SLs reach this one"
        ) from error


def _await_listening(process: subprocess.Popen[bytes], sock: Path, log: Path, waiting: Callable[[str], None]) -> None:
    deadline = time.monotonic() + START_WAIT_S
    while True:
        connection = try_connect(sock)
        if connection is not None:
            connection.close()
            return
        status = process.poll()
        if status is not None:
            raise Unreachable(
                f"the SL that was started ended at once with status {status}; {log} ends with:{_tail(log)}"
            )
        if time.monotonic() >= deadline:
            process.terminate()  # nobody uses it, and it would hold the port against the next try
            raise Unreachable(
                f"the SL that was started did not listen at {sock} within {START_WAIT_S:.0f} s and was ended; {log} "
                f"ends with:{_tail(log)}"
            )
        waiting(f"for the SL that was started (process {process.pid}) to listen; its log is {log}")
        time.sleep(0.1)


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
    return "".join(f"\n    {line}" for line in lines) or " (nothing)"
