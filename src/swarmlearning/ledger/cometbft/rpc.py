"""The few calls that we make to CometBFT's own JSON-RPC, over a Unix socket or loopback.

Every call has a limit in time and size. Answers are decoded into what we need of them.

Does not: retry. Spec: docs/spec/ledger-cometbft.md, section 3.
"""

import asyncio
import base64
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from swarmlearning.errors import ConfigurationError, DecodeError, Refused, Unreachable
from swarmlearning.types import Validator

T = TypeVar("T")

MAX_REPLY_BYTES: Final = 8 << 20
"""Largest answer that is read; a block's results may be long."""

HASH_BYTES: Final = 32

_CALL_S: Final = 10.0
_CONNECTIONS: Final = 64
"""Calls at a time; each offered transaction waits about 20 ms for its check."""

CACHED: Final = "cached"
FULL: Final = "full"
CATCHING_UP: Final = "catching-up"
REFUSED: Final = "rpc"


class Broadcast(msgspec.Struct, frozen=True):
    """What `CheckTx` said of a transaction."""

    code: int
    log: str = ""
    codespace: str = ""


class SyncInfo(msgspec.Struct, frozen=True):
    """How far the child is."""

    latest_block_height: str
    catching_up: bool


class NodeInfo(msgspec.Struct, frozen=True):
    """Who a CometBFT is to its peers."""

    id: str


class Status(msgspec.Struct, frozen=True):
    """The child's state."""

    node_info: NodeInfo
    sync_info: SyncInfo

    @property
    def height(self) -> int:
        """Of its last block."""
        return int(self.sync_info.latest_block_height)


class _Peer(msgspec.Struct, frozen=True):
    node_info: NodeInfo


class _NetInfo(msgspec.Struct, frozen=True):
    peers: list[_Peer]


class _BlockId(msgspec.Struct, frozen=True):
    hash: str


class _Commit(msgspec.Struct, frozen=True):
    block_id: _BlockId


class _SignedHeader(msgspec.Struct, frozen=True):
    commit: _Commit


class _CommitAnswer(msgspec.Struct, frozen=True):
    signed_header: _SignedHeader


class _Error(msgspec.Struct, frozen=True):
    code: int
    message: str
    data: str = ""


class _Reply(msgspec.Struct, frozen=True):
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None


class Rpc:
    """Calls one CometBFT; use it from one event loop, and close it there.

    Args:
        url: `unix:///path` or `http://127.0.0.1:port`.

    Raises:
        ConfigurationError: it is none of these, or not on this machine.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._shown = url
        self._socket: Path | None = None
        self._url = "http://localhost/"
        if parts.scheme == "unix" and parts.path:
            self._socket = Path(parts.netloc + parts.path)
        elif parts.scheme == "http" and is_loopback(parts.hostname) and parts.port:
            self._url = url
        else:
            raise ConfigurationError(
                f"CometBFT's RPC {url!r}: expected unix:///path or http://127.0.0.1:port (it has no access control, "
                "and must not be reachable from elsewhere)"
            )
        self._session: aiohttp.ClientSession | None = None

    async def broadcast(self, tx: bytes) -> Broadcast:
        """Offer a transaction and return what `CheckTx` said of it.

        Raises:
            Refused: it was not checked, because CometBFT has seen it before (code `cached`), has too many that wait
                (`full`), or is not level with the others (`catching-up`).
            Unreachable: no answer.
            DecodeError: an answer that we cannot read.
        """
        return await self.call("broadcast_tx_sync", {"tx": base64.b64encode(tx).decode()}, Broadcast)

    async def status(self) -> Status:
        """How far the child is.

        Raises:
            SwarmError: as `call` does.
        """
        return await self.call("status", {}, Status)

    async def peers(self) -> frozenset[str]:
        """Peer ids of those to whom the child is connected.

        Raises:
            SwarmError: as `call` does.
        """
        return frozenset(peer.node_info.id for peer in (await self.call("net_info", {}, _NetInfo)).peers)

    async def block_hash(self, height: int) -> bytes:
        """Hash of a block that the child holds, 32 bytes.

        Raises:
            SwarmError: as `call` does; above all, it does not hold that block.
        """
        answer = await self.call("commit", {"height": str(height)}, _CommitAnswer)
        try:
            found = bytes.fromhex(answer.signed_header.commit.block_id.hash)
        except ValueError as error:
            raise DecodeError(f"CometBFT's answer to commit: {error}") from error
        if len(found) != HASH_BYTES:
            raise DecodeError(f"CometBFT's answer to commit: a block hash of {len(found)} bytes, expected {HASH_BYTES}")
        return found

    async def dial(self, members: Iterable[Validator]) -> None:
        """Have the child connect to those of `members` to whom it is not connected, and keep these connections.

        Raises:
            SwarmError: as `call` does.
        """
        peers = sorted(f"{member.peer}@{member.endpoint}" for member in members)
        await self.call("dial_peers", {"peers": peers, "persistent": True}, dict[str, Any])

    async def flush(self) -> None:
        """Have the child forget all that waits for a block, so that what is offered anew is sent to all peers anew.

        Raises:
            SwarmError: as `call` does.
        """
        await self.call("unsafe_flush_mempool", {}, dict[str, Any])

    async def call(self, method: str, params: dict[str, Any], kind: type[T]) -> T:
        """Any call, its result decoded as `kind`.

        Raises:
            Refused: CometBFT answers with an error.
            Unreachable: no answer within 10 s.
            DecodeError: an answer of another form than expected, or above 8 MiB.
        """
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        try:
            async with asyncio.timeout(_CALL_S):
                async with self._opened().post(
                    self._url, data=body, headers={"Content-Type": "application/json"}, allow_redirects=False
                ) as response:
                    data = await response.content.read(MAX_REPLY_BYTES + 1)
                    while len(data) <= MAX_REPLY_BYTES and not response.content.at_eof():
                        data += await response.content.read(MAX_REPLY_BYTES + 1 - len(data))
        except TimeoutError as error:
            raise Unreachable(f"CometBFT did not answer {method} at {self._shown} within {_CALL_S:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            why = getattr(cause, "strerror", None) or str(error)
            raise Unreachable(f"CometBFT cannot be asked at {self._shown}: {why}") from error
        if len(data) > MAX_REPLY_BYTES:
            raise DecodeError(f"CometBFT's answer to {method}: more than {MAX_REPLY_BYTES} bytes")
        return _decode(data, method, kind)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = (
                aiohttp.TCPConnector(limit=_CONNECTIONS)
                if self._socket is None
                else aiohttp.UnixConnector(str(self._socket), limit=_CONNECTIONS)
            )
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._session


def is_loopback(host: str | None) -> bool:
    """Whether `host` is this machine and nothing but it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _decode(data: bytes, method: str, kind: type[T]) -> T:
    try:
        reply = msgspec.json.decode(data, type=_Reply)
        if reply.error is None:
            return msgspec.json.decode(reply.result, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"CometBFT's answer to {method} is not what 0.38 to 0.40 give: {error}") from error
    text = reply.error.data or reply.error.message
    code = REFUSED
    if "already exists in cache" in text:
        code = CACHED
    elif "mempool is full" in text or "still rechecking" in text:
        code = FULL
    elif "catching up" in text:
        code = CATCHING_UP
    raise Refused(f"CometBFT refuses {method}: {text}", code=code)
