"""A server on loopback that serves files, and misbehaves in every way that a test asks for."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

CONTENT = bytes(range(256)) * 4096
"""1 MiB."""

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Where it is, and what it was asked for."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.asked: list[web.Request] = []


async def _send_file(request: web.Request) -> web.StreamResponse:
    return web.Response(body=CONTENT)


async def _redirect(request: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": request.query["to"]})


async def _status(request: web.Request) -> web.StreamResponse:
    return web.Response(status=int(request.query["code"]), text="no")


async def _circle(request: web.Request) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": "/circle"})


async def _nowhere(request: web.Request) -> web.StreamResponse:
    return web.Response(status=302)


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(bytes(65536))
    return response


async def _short(request: web.Request) -> web.StreamResponse:
    """Says more than it sends."""
    response = web.StreamResponse(headers={"Content-Length": str(len(CONTENT) * 2)})
    await response.prepare(request)
    await response.write(CONTENT)
    assert request.transport is not None
    request.transport.close()
    return response


async def _silent(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begin")
    await asyncio.Event().wait()
    return response


async def _dripping(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.05)
    return response


async def _squeezed(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"\x1f\x8b not looked into", headers={"Content-Encoding": "gzip"})


async def _cookie(request: web.Request) -> web.StreamResponse:
    response = web.Response(status=302, headers={"Location": "/file"})
    response.set_cookie("who", "you")
    return response


@contextlib.asynccontextmanager
async def serve(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Run a server."""
    server = Server("")
    answers = {
        "/file": _send_file, "/dir/data.csv": _send_file, "/redirect": _redirect, "/status": _status,
        "/nowhere": _nowhere, "/endless": _endless, "/short": _short, "/silent": _silent, "/dripping": _dripping,
        "/squeezed": _squeezed, "/circle": _circle, "/cookie": _cookie,
    }  # fmt: skip

    @web.middleware
    async def note(request: web.Request, handler: Answer) -> web.StreamResponse:
        server.asked.append(request)
        return await handler(request)

    application = web.Application(middlewares=[note])
    for path, answer in answers.items():
        application.router.add_get(path, answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        server.base = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield server
    finally:
        await runner.cleanup()


def make_tls(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate that signs itself; and that certificate, which nobody trusts yet."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "server.pem"
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(public + private)
    authority = directory / "authority.pem"
    authority.write_bytes(public)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    return context, authority
