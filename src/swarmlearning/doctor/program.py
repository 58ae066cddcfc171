"""Where a program started in this environment would meet its SL.

Talks to nobody but the local door, and says nothing there. Spec of the door: docs/spec/control.md.
"""

import os
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from swarmlearning.callbacks.launch import Attach, Launch, find_door
from swarmlearning.doctor.findings import Finding, Topic, ok, problem, skipped, warning
from swarmlearning.doctor.variables import check_loopback, check_names
from swarmlearning.errors import ConfigurationError

_CREDENTIALS: Final = struct.Struct("3i")
"""Linux's `struct ucred`: process, user, group."""

_SET_SL: Final = "set SWARM_SL to the control directory of the running SL (its --control)"


def check_program(environ: Mapping[str, str], timeout_s: float) -> list[Finding]:
    """The environment of an ML program: names, contradictions, the SL's socket, the exchange directory."""
    found = [*check_names(environ), *check_loopback(environ)]
    alone = any(finding.subject == "SWARM_LOOPBACK" for finding in check_loopback(environ))
    if environ.get("SWARM_EXCHANGE_DIR"):
        found.append(_check_exchange(Path(environ["SWARM_EXCHANGE_DIR"])))
    if environ.get("SWARM_SL"):
        # Also where SWARM_LOOPBACK hides it: that one is unset in a moment.
        found.append(_check_sl({**environ, "SWARM_LOOPBACK": ""}, timeout_s))
    elif environ.get("SWARM_SN"):
        found.append(_check_launch({**environ, "SWARM_LOOPBACK": ""}))
    elif not alone:
        found.append(
            skipped(
                Topic.PROGRAM,
                "SWARM_SL",
                "is not set here, nor is SWARM_SN",
                "run this where the program starts, with its environment",
            )
        )
    return found


def _check_exchange(path: Path) -> Finding:
    if path.is_dir():
        return ok(Topic.PROGRAM, "SWARM_EXCHANGE_DIR", f"{path} is there")
    return problem(
        Topic.PROGRAM,
        "SWARM_EXCHANGE_DIR",
        f"there is no directory {path}",
        "make it (mode 0700), or unset the variable; program and SL must name the same directory",
    )


def _check_launch(environ: Mapping[str, str]) -> Finding:
    try:
        door = find_door(environ)
    except ConfigurationError as error:
        advice = f"{_SET_SL}, or complete the identity of the SL to be started (SWARM_ID_*)"
        return warning(Topic.PROGRAM, "SWARM_SN", f"a program started here would end: {error}", advice)
    assert isinstance(door, Launch)
    return ok(
        Topic.PROGRAM, "SWARM_SN", f"a program started here starts an SL at {door.host}:{door.port}, in {door.data}"
    )


def _check_sl(environ: Mapping[str, str], timeout_s: float) -> Finding:
    try:
        door = find_door(environ)
    except ConfigurationError as error:
        return problem(Topic.PROGRAM, "SWARM_SL", str(error), _SET_SL)
    assert isinstance(door, Attach)
    return check_socket(door.socket, timeout_s)


def check_socket(path: Path, timeout_s: float) -> Finding:
    """Whether an SL of this user, or of root, listens at a socket."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    with connection:
        try:
            connection.connect(os.fspath(path))
            user = _user_of(connection, path)
        except (FileNotFoundError, ConnectionRefusedError):
            return problem(
                Topic.PROGRAM,
                "SWARM_SL",
                f"no SL listens at {path}",
                f"start `swarm sl` with this --control, or {_SET_SL}",
            )
        except TimeoutError:
            return problem(
                Topic.PROGRAM,
                "SWARM_SL",
                f"the SL at {path} takes no connection within {timeout_s:g} s",
                "see the SL's log, and start it again",
            )
        except OSError as error:
            advice = f"run this as the user of the SL, or {_SET_SL}"
            return problem(Topic.PROGRAM, "SWARM_SL", f"{path} cannot be used: {error.strerror or error}", advice)
    if user not in (os.geteuid(), 0):
        return problem(
            Topic.PROGRAM,
            "SWARM_SL",
            f"the process at {path} runs as user {user}, this one as {os.geteuid()}",
            "run SL and program as the same user: neither talks to another user's",
        )
    return ok(Topic.PROGRAM, "SWARM_SL", f"an SL listens at {path}")


def _user_of(connection: socket.socket, path: Path) -> int:
    """C-2: who runs the process at the socket; where the system does not tell, who owns the socket."""
    if sys.platform == "linux":
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, _ = _CREDENTIALS.unpack(raw)
    else:
        user = path.stat().st_uid
    return int(user)
