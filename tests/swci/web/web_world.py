"""The REST service beside a running swarm, and clients of it with certificates of every kind."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import urllib3
from swci_world import Swarm

from swarmlearning.swci.contexts import IdentityPaths
from swarmlearning.swci.entries import Entry
from swarmlearning.swci.table import COMMANDS
from swarmlearning.swci.web.serve import LIMITS, WebConfig, WebNode
from swarmlearning.transport.server import ServerLimits
from swarmlearning.types import Role

HOST: Final = "127.0.0.1"


class Answer:
    """What came back."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.data = response.data

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def lines(self) -> list[str]:
        """Of `/exec` and uploads."""
        assert self.status == 200, self.data
        (content,) = self.json.values()
        return list(content)

    @property
    def problem(self) -> tuple[int, str, str]:
        """Status, code and detail of a problem document."""
        assert self.headers["Content-Type"] == "application/problem+json", (self.status, self.data)
        assert self.json["status"] == self.status
        return self.status, self.json["code"], self.json["detail"]


class Caller:
    """An ordinary client with a certificate: no header of its own, the server verified by its CA and its address."""

    def __init__(self, base: str, identity: IdentityPaths, timeout_s: float = 30) -> None:
        self.base = base
        self.identity = identity
        self.pool = urllib3.PoolManager(
            cert_file=identity.cert, key_file=identity.key, ca_certs=identity.cacert, retries=False, timeout=timeout_s
        )

    def ask(self, method: str, path: str, **others: Any) -> Answer:
        return Answer(self.pool.request(method, self.base + path, **others))

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def put(self, path: str, **arguments: Any) -> Answer:
        return self.ask("PUT", path, json=arguments)

    def post(self, path: str, **arguments: Any) -> Answer:
        return self.ask("POST", path, json=arguments)

    def say(self, line: str) -> list[str]:
        """What `/exec` answers to a line."""
        return self.ask("POST", "/exec?" + urlencode({"cmd": line})).lines

    def upload(self, name: str, data: bytes) -> Answer:
        return self.ask("POST", "/uploadTaskDef", fields={"file": (name, data, "application/octet-stream")})

    def close(self) -> None:
        self.pool.clear()


class Service:
    """A running REST service."""

    def __init__(self, swarm: Swarm, node: WebNode, port: int, root: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.swarm = swarm
        self.node = node
        self.port = port
        self.root = root
        self.loop = loop
        self.base = f"https://{HOST}:{port}"
        self._callers: list[Caller] = []

    def caller(self, name: str = "", role: Role = Role.OPERATOR, identity: IdentityPaths | None = None) -> Caller:
        """A client; without a name the operator that nobody else is."""
        made = Caller(self.base, identity or self.swarm.identity(role, name=name or self.swarm.fresh("caller")))
        self._callers.append(made)
        return made

    def settle(self) -> None:
        """Until the service has done what it does at once after an answer."""

        async def turn() -> None:
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(turn(), self.loop).result(10)

    def close(self) -> None:
        for caller in self._callers:
            caller.close()


@contextlib.contextmanager
def serving(
    swarm: Swarm,
    root: Path,
    entries: Sequence[Entry] = COMMANDS,
    *,
    limits: ServerLimits = LIMITS,
    **others: Any,
) -> Iterator[Service]:
    """The service on a port of its own, in a thread of its own."""
    config = WebConfig(
        sn=swarm.sn(), host=HOST, port=0, root=root, identity=swarm.identity(name="rest"), limits=limits, **others
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        node = WebNode(config, entries)
        port = asyncio.run_coroutine_threadsafe(node.start(), loop).result(60)
        made = Service(swarm, node, port, root, loop)
        try:
            yield made
        finally:
            made.close()
            asyncio.run_coroutine_threadsafe(node.stop(), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
