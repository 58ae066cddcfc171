"""Downloads: bounded in size and time, every redirect checked, hashed on the way, whole or not at all.

Spec: docs/spec/swop-content.md, SW-67 and SW-68.
"""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from swarmlearning.errors import TaskFailed
from swarmlearning.swop.content.names import show_name, write_aside
from swarmlearning.swop.content.urls import Allow, check_url, find_proxy, follow, is_link_local, show_url

Tell = Callable[[str], None]

MAX_REDIRECTS: Final = 5

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_BLOCK: Final = 1 << 17


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a download may take."""

    connect_s: float = 30.0
    idle_s: float = 60.0
    """Without a byte."""
    total_s: float = 6 * 3600.0
    progress_s: float = 5.0
    """Between two lines about the progress."""


PATIENCE: Final = Patience()


class Downloaded(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was downloaded."""

    size: int
    sha256: str


class _Resolver(ThreadedResolver):
    """Finds no addresses of the own link, so that no name leads there either."""

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[Any]:  # noqa: ANN401
        found = await super().resolve(host, port, family)
        kept = [each for each in found if not is_link_local(each["host"])]
        if not kept:
            raise OSError(None, "it has no address but on the own link")
        return kept


async def download(
    url: str,
    path: Path,
    *,
    most: int,
    allow: Allow,
    tell: Tell,
    sha256: str | None = None,
    patience: Patience = PATIENCE,
) -> Downloaded:
    """Download a file.

    Args:
        url: http or https.
        path: where it goes; replaced when it is complete.
        most: bytes.
        allow: whether something may be downloaded from a URL; asked for each redirect, too.
        tell: is given what happens, and how far it is.
        sha256: what the file has to have, hexadecimal.
        patience: how long it may take.

    Raises:
        TaskFailed: it could not be had whole, is another than the expected one, too large, or not allowed.
    """
    check_url(url, allow)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=patience.connect_s, sock_read=patience.idle_s)
    connector = aiohttp.TCPConnector(resolver=_Resolver(), ssl=ssl.create_default_context(), force_close=True)
    # Not trust_env: it would send what ~/.netrc has for a host to whoever is there.
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", "User-Agent": "swarm-learning"},
        max_line_size=16 << 10,
        max_field_size=16 << 10,
    )
    try:
        async with asyncio.timeout(patience.total_s), session:
            return await _Download(session, path, most, allow, tell, patience).run(url, sha256)
    except TimeoutError as error:
        what = str(error) or f"it took longer than {patience.total_s:g} s"
        raise TaskFailed(f"{show_url(url)}: {what}") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise TaskFailed(f"{show_url(url)}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate is not trusted on this host ({show_name(str(error.certificate_error))})"
        case aiohttp.ClientPayloadError():
            return "it broke off before all had come"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answers with status {error.status}"
        case aiohttp.ClientConnectorError():
            return f"nobody answers there ({show_name(str(error.os_error))})"
        case _:
            return show_name(str(error) or type(error).__name__)


class _Download:
    """One download."""

    def __init__(
        self, session: aiohttp.ClientSession, path: Path, most: int, allow: Allow, tell: Tell, patience: Patience
    ) -> None:
        self._session = session
        self._path = path
        self._most = most
        self._allow = allow
        self._tell = tell
        self._patience = patience
        self._told_at = 0.0
        self._told_tenths = 0

    async def run(self, url: str, sha256: str | None) -> Downloaded:
        for _ in range(MAX_REDIRECTS + 1):
            proxy = find_proxy(url)
            async with self._session.get(URL(url, encoded=True), allow_redirects=False, proxy=proxy) as response:
                if response.status in _REDIRECTS:
                    location = response.headers.get("Location", "")
                    if not location:
                        raise TaskFailed(f"{show_url(url)}: it redirects to nowhere")
                    url = follow(url, location, self._allow)
                    self._tell(f"redirected to {show_url(url)}")
                    continue
                if response.status != 200:
                    raise TaskFailed(f"{show_url(url)}: the server answers with status {response.status}")
                return await self._save(url, response, sha256)
        raise TaskFailed(f"{show_url(url)}: more than {MAX_REDIRECTS} redirects")

    async def _save(self, url: str, response: aiohttp.ClientResponse, sha256: str | None) -> Downloaded:
        announced = response.content_length
        if announced is not None and announced > self._most:
            raise TaskFailed(f"{show_url(url)}: {announced} bytes, and this host's policy allows {self._most} more")
        hasher, size = hashlib.sha256(), 0
        with write_aside(self._path) as write:
            async for block in response.content.iter_chunked(_BLOCK):
                size += len(block)
                if size > self._most:
                    raise TaskFailed(f"{show_url(url)}: more than {self._most} bytes, which this host's policy allows")
                hasher.update(block)
                await asyncio.to_thread(write, block)
                self._progress(size, announced)
            found = hasher.hexdigest()
            if sha256 is not None and found != sha256.lower():
                raise TaskFailed(f"{show_url(url)}: its SHA-256 is {found}, expected {sha256.lower()}")
        self._tell(f"{show_name(self._path.name)}: {size} bytes, SHA-256 {found}")
        return Downloaded(size=size, sha256=found)

    def _progress(self, size: int, announced: int | None) -> None:
        """Say how far it is: every tenth, or every few seconds."""
        now = asyncio.get_running_loop().time()
        tenths = size * 10 // announced if announced else 0
        if now - self._told_at < self._patience.progress_s and tenths <= self._told_tenths:
            return
        if announced and size >= announced:
            return  # the line with the hash follows
        self._told_at, self._told_tenths = now, max(tenths, self._told_tenths)
        share = f" of {announced} ({size * 100 // announced} %)" if announced else ""
        self._tell(f"{show_name(self._path.name)}: {size} bytes{share}")
