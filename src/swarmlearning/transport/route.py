"""By which address this machine reaches another one."""

import socket

from swarmlearning.types import Endpoint


def own_address(towards: Endpoint) -> str:
    """This machine's address on the way to an endpoint; a datagram socket learns it without sending anything.

    Raises:
        OSError: there is no way, or the name is not known.
    """
    family, kind, _, _, address = socket.getaddrinfo(towards.host, towards.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
