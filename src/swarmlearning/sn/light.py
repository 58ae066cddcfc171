"""How a newcomer's CometBFT learns which state the validators signed, before it restores a snapshot of it.

CometBFT asks RPC servers for headers, signatures and validators. No RPC is open to anybody, so the newcomer's SN serves
one, `LightProxy`, on a Unix socket of its own, and asks the SN of a member over mutual TLS (call `light`), which asks
its own CometBFT. Nothing that comes is believed: the newcomer's CometBFT verifies it from a block that a join ticket
names.

Does not: carry snapshots, which come from the peers. Spec: docs/spec/access.md, A-13.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from swarmlearning.encoding import Record, encode
from swarmlearning.errors import Refused, SwarmError
from swarmlearning.sn.api import CALL_LIGHT
from swarmlearning.transport.api import Address, Client

_LOG: Final = logging.getLogger("swarmlearning.sn")

METHODS: Final[Mapping[str, frozenset[str]]] = {
    "commit": frozenset({"height"}),
    "validators": frozenset({"height", "page", "per_page"}),
    "consensus_params": frozenset({"height"}),
}
"""What may be asked, with which parameters."""

MAX_REQUEST_BYTES: Final = 4096
CALL_S: Final = 15.0

_FAILED: Final = -32000
"""JSON-RPC's code for an error of the server's own."""


class LightRequest(Record, frozen=True, kw_only=True):
    """A question about a block."""

    method: str
    params: dict[str, str]
    """Numbers as text, as CometBFT takes them."""


def check_question(request: LightRequest) -> None:
    """A-13: only what a light client needs is asked on.

    Raises:
        Refused: it is something else.
    """
    known = METHODS.get(request.method)
    if known is None or not request.params.keys() <= known:
        raise Refused(
            f"light call {request.method[:40]!r}: expected one of {', '.join(METHODS)}, with their parameters",
            code="malformed",
        )
    for name, value in request.params.items():
        if not (value.isascii() and value.isdigit() and len(value) <= 19):
            raise Refused(f"light call {request.method}: {name} {value[:40]!r} is no number", code="malformed")


class _Question(msgspec.Struct, frozen=True):
    method: str
    params: dict[str, str | int | None] = {}
    id: int | str = 0


class LightProxy:
    """Answers the own CometBFT what the SN of a member answers.

    Args:
        client: asks it.
        sn: the member's SN, at its API's port.
    """

    def __init__(self, client: Client, sn: Address) -> None:
        self._client = client
        self._sn = sn
        self._directory = Path(tempfile.mkdtemp(prefix="swarm-"))
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        """Where CometBFT finds it."""
        return f"unix://{self._directory}/light.sock"

    async def start(self) -> None:
        """Listen."""
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None))
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self._directory / "light.sock")).start()

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read(MAX_REQUEST_BYTES)
        try:
            question = msgspec.json.decode(body, type=_Question)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return web.Response(status=400)
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": question.id}
        try:
            params = {name: str(value) for name, value in question.params.items() if value is not None}
            asked = LightRequest(method=question.method, params=params)
            check_question(asked)
            reply = await self._client.call(self._sn, CALL_LIGHT, encode(asked), timeout_s=CALL_S)
            answer["result"] = msgspec.Raw(reply)
        except SwarmError as error:
            _LOG.info("%s: %s", self._sn.node, error)
            answer["error"] = {"code": _FAILED, "message": "not answered", "data": str(error)}
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
