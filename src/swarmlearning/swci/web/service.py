"""Answers the REST service's requests: who may ask, which command is meant, what came of it. Spec: CI-20 to CI-30.

On the same verified connections as nodes use (`transport.server.Listener`). Does not: know TLS, or hold sessions.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from swarmlearning.encoding import to_json
from swarmlearning.errors import ConfigurationError, Refused, SwarmError, exit_code
from swarmlearning.reports.status import make_printable
from swarmlearning.swci.entries import Entry, Meant, parse
from swarmlearning.swci.lexer import decode_line
from swarmlearning.swci.running import Done, failure, run_command, write_lines
from swarmlearning.swci.web.arguments import read_command, read_json, read_query
from swarmlearning.swci.web.events import Events
from swarmlearning.swci.web.openapi import make_document
from swarmlearning.swci.web.problems import (
    INTERNAL,
    MEDIA_TYPE,
    Problem,
    WebRefusal,
    internal_problem,
    is_ours,
    problem_of,
)
from swarmlearning.swci.web.routes import PREFIX, Found, Router, unknown_path, wrong_method
from swarmlearning.swci.web.sessions import Held, Sessions
from swarmlearning.swci.web.uploads import MAX_UPLOAD_BYTES, read_upload, store_upload
from swarmlearning.swci.web.wire import Contents
from swarmlearning.transport.answering import Connection, read_body, send_response
from swarmlearning.transport.api import MAX_BODY_BYTES
from swarmlearning.transport.sending import Hangup
from swarmlearning.transport.server import ServerLimits
from swarmlearning.types import NodeName, Role

T = TypeVar("T")

EXEC: Final = "/exec"
UPLOAD: Final = "/uploadTaskDef"

RECHECK_S: Final = 5.0
"""How often it is looked, while a command goes on, whether its caller's certificate still counts, seconds."""

JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"

HEADERS: Final = {"Server": "swarmlearning", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_LOG: Final = logging.getLogger("swarmlearning.swci.web")


class WebService:
    """The REST service, without its sockets."""

    def __init__(
        self,
        node: NodeName,
        entries: Sequence[Entry],
        sessions: Sessions,
        events: Events,
        *,
        limits: ServerLimits,
        recheck_s: float = RECHECK_S,
    ) -> None:
        """Serve a table of commands as `node`.

        Raises:
            ValueError: the table's routes contradict each other: a fault of ours.
        """
        self._node = node
        self._entries = entries
        self._router = Router(entries)
        self._document = to_json(make_document(entries))
        self._sessions = sessions
        self._events = events
        self._limits = limits
        self._recheck_s = recheck_s

    async def refuse(self, request: web.BaseRequest, error: Refused) -> web.StreamResponse:
        """Tell that a request is refused before anything of it was read.

        Raises:
            Hangup: the client stalled or left.
        """
        status = 403 if error.code == "certificate" else 429
        return await self._fail(request, WebRefusal(status, error.code, str(error)), close=True)

    async def answer(self, request: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        """Answer one request; whatever goes wrong is answered too.

        Raises:
            Hangup: the client stalled or left.
        """
        log = _Log(connection.peer.name)
        try:
            response = await self._answer(request, connection, log)
        except SwarmError as error:
            log.end(error)
            log.explain(error)
            # Nothing can follow a request that was not read to its end, or on a certificate that counts no more.
            close = not request.content.at_eof() or getattr(error, "code", "") == "certificate"
            return await self._fail(request, error, close=close)
        except (Hangup, ConnectionError):
            log.end("the client left")
            raise
        except asyncio.CancelledError:
            log.end("the client left, or the service stops")
            raise
        except Exception as error:  # noqa: BLE001 - a task boundary: one command's bug must not end the service
            _LOG.error("%s: %s failed", connection.peer.name.short, log.what, exc_info=error)
            return await self._send_problem(request, internal_problem(compatible=_is_compatible(request)), close=True)
        log.end()
        return response

    async def _answer(self, request: web.BaseRequest, connection: Connection, log: "_Log") -> web.StreamResponse:
        # 1. The caller may ask at all (CI-20).
        self._admit(connection.peer.name)
        # 2. No browser asks on another site's behalf (CI-24).
        check_origin(request)
        # 3. There is something at the path (CI-26).
        path, _, query = request.raw_path.partition("?")
        if path == f"{PREFIX}/events":
            _check_method(request, "GET")
            log.what = "events"
            return await self._events.serve(request, connection, HEADERS)
        if path == f"{PREFIX}/openapi.json":
            _check_method(request, "GET")
            log.what = "openapi.json"
            return await self._send(request, 200, self._document, JSON)
        if path == EXEC:
            _check_method(request, "POST")
            contents = await self._exec(request, connection, query, log)
        elif path == UPLOAD:
            _check_method(request, "POST")
            log.what = "upload"
            contents = await self._upload(request, connection)
        elif path.startswith(f"{PREFIX}/"):
            found = self._router.find(request.method, path.removeprefix(PREFIX))
            return await self._typed(request, connection, found, query, log)
        else:
            raise unknown_path()
        return await self._send(request, 200, msgspec.json.encode(contents), JSON)

    def _admit(self, caller: NodeName) -> None:
        if caller.domain != self._node.domain:
            raise WebRefusal(
                403,
                "foreign-organisation",
                f"{caller.short} asked the REST service of {self._node.domain}; operators ask their own organisation's",
            )
        if caller.role is not Role.OPERATOR:
            raise WebRefusal(
                403,
                "role",
                f"{caller.short} has the role {caller.role.value}; this needs the role operator: use an operator's "
                "certificate (swarm cert issue --role operator)",
            )

    # --- existing clients -------------------------------------------------------------------------------------------

    async def _exec(self, request: web.BaseRequest, connection: Connection, query: str, log: "_Log") -> Contents:
        """CI-24: one line, and the lines that come of it."""
        given = read_query(query)
        if request.body_exists:
            if "cmd" in given:
                await self._read(request, MAX_BODY_BYTES)  # existing clients may send an empty form beside the query
            else:
                _check_type(request, FORM)
                given |= _read_form(await self._read(request, MAX_BODY_BYTES))
        if set(given) != {"cmd"}:
            raise ConfigurationError("expected cmd=<one line>, in the query or in a form, and nothing else")

        async def work(held: Held) -> list[str]:
            done = await self._run_line(held, given["cmd"], log)
            if held.session.exit_on_failure and done is not None and done.failed:
                held.session.ended = True
            return [*held.output.take(), *([] if done is None else write_lines(done))]

        return Contents(content=await self._in_session(connection, log.what or "exec", work))

    async def _run_line(self, held: Held, line: str, log: "_Log") -> Done | None:
        try:
            meant = parse(self._entries, decode_line(line.encode()))
            if meant is None:
                return None
            held.running = log.what = _verb(meant.entry)
            return await run_command(held.session, meant)
        except SwarmError as error:
            log.note(error)
            log.explain(error)
            return Done(error=INTERNAL, status=exit_code(error)) if is_ours(error) else failure(error)

    async def _upload(self, request: web.BaseRequest, connection: Connection) -> Contents:
        """CI-25: a task file into the caller's current directory."""
        _check_type(request, MULTIPART)
        body = await self._read(request, MAX_UPLOAD_BYTES)
        upload = read_upload(request.headers["Content-Type"], body)

        async def work(held: Held) -> list[str]:
            path = store_upload(held.session.directory, upload)
            return [f"Uploaded : {make_printable(str(path))}"]

        return Contents(content=await self._in_session(connection, "upload", work))

    # --- typed ------------------------------------------------------------------------------------------------------

    async def _typed(
        self, request: web.BaseRequest, connection: Connection, found: Found, query: str, log: "_Log"
    ) -> web.StreamResponse:
        """CI-26: a command of the table by its route."""
        bound = found.bound
        entry = bound.entry
        log.what = _verb(entry)
        if bound.takes_json:
            _check_type(request, JSON)
            if query:
                raise ConfigurationError("expected no query; arguments stand in the path and in the JSON body")
            values = read_json(await self._read(request, MAX_BODY_BYTES))
            texts = found.arguments
        else:
            if request.body_exists:
                raise ConfigurationError(f"a {request.method} has no body; arguments stand in the path and the query")
            values = {}
            texts = _merge(read_query(query), found.arguments)
        command = read_command(entry, texts, values)

        async def work(held: Held) -> Done:
            return await run_command(held.session, Meant(entry, command))

        done = await self._in_session(connection, log.what, work)
        return await self._send(request, 200, msgspec.json.encode(done.answer), JSON)

    # --- what all share -----------------------------------------------------------------------------------------------

    async def _in_session(self, connection: Connection, what: str, work: Callable[[Held], Coroutine[Any, Any, T]]) -> T:
        """Do `work` in the caller's session, alone, for as long as its certificate counts."""

        async def alone() -> T:
            async with self._sessions.use(connection.peer.node, what) as held:
                return await work(held)

        return await self._while_trusted(connection, alone())

    async def _while_trusted(self, connection: Connection, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=self._recheck_s)
                try:
                    connection.recheck()
                except Refused as error:
                    raise WebRefusal(403, "certificate", str(error)) from error
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _read(self, request: web.BaseRequest, most: int) -> bytes:
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise WebRefusal(415, "media-type", "the body is compressed; expected it as it is")
        try:
            return await read_body(request, self._node.id, most=most, within_s=self._limits.request_s)
        except Refused as error:
            raise WebRefusal(413 if error.code == "too-large" else 400, error.code, str(error)) from error

    async def _send(self, request: web.BaseRequest, status: int, body: bytes, kind: str) -> web.StreamResponse:
        response = web.Response(status=status, body=body, headers={**HEADERS, "Content-Type": kind})
        return await send_response(request, response, self._limits.stall_s)

    async def _fail(self, request: web.BaseRequest, error: SwarmError, *, close: bool) -> web.StreamResponse:
        problem = problem_of(error, compatible=_is_compatible(request))
        headers = error.headers if isinstance(error, WebRefusal) else {}
        return await self._send_problem(request, problem, close=close, headers=headers)

    async def _send_problem(
        self, request: web.BaseRequest, problem: Problem, *, close: bool, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        response = web.Response(
            status=problem.status,
            body=msgspec.json.encode(problem),
            headers={**HEADERS, **(headers or {}), "Content-Type": MEDIA_TYPE},
        )
        return await send_response(request, response, self._limits.stall_s, close=close)


class _Log:
    """One line a request: caller, verb, how it went and how long it took; never arguments or bodies."""

    def __init__(self, caller: NodeName) -> None:
        self.what = ""
        self._caller = caller
        self._began_s = time.monotonic()
        self._note = ""

    def note(self, error: SwarmError) -> None:
        """What is answered as a line is an error all the same."""
        self._note = type(error).__name__

    def explain(self, error: SwarmError) -> None:
        """Write what callers are not told: a fault of ours, or of our identity."""
        if is_ours(error):
            _LOG.error("%s: %s failed: %s", self._caller.short, self.what, error, exc_info=error)

    def end(self, how: SwarmError | str = "") -> None:
        """Write the line."""
        outcome = how if isinstance(how, str) else f"{type(how).__name__} {getattr(how, 'code', '')}".strip()
        passed_ms = (time.monotonic() - self._began_s) * 1000
        _LOG.info(
            "%s: %s: %s in %.0f ms",
            self._caller.short,
            self.what or "(nothing known)",
            outcome or self._note or "done",
            passed_ms,
        )


def check_origin(request: web.BaseRequest) -> None:
    """CI-30: a browser that holds an operator's certificate shows it whatever page asks; other sites' pages may not.

    Raises:
        WebRefusal: the request comes from another site's page.
    """
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    foreign = origin is not None and _host_of(origin) != request.headers.get("Host")  # "null" has none
    if site not in ("none", "same-origin") or foreign:
        raise WebRefusal(403, "cross-site", "the request comes from another site's page; ask from a program")


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # no URL
        return None


def _verb(entry: Entry) -> str:
    return " ".join(entry.syntax.verb)


def _is_compatible(request: web.BaseRequest) -> bool:
    return request.raw_path.partition("?")[0] in (EXEC, UPLOAD)


def _check_method(request: web.BaseRequest, expected: str) -> None:
    if request.method != expected:
        raise wrong_method(request.method, {expected})


def _check_type(request: web.BaseRequest, expected: str) -> None:
    """Raises: WebRefusal: the body is of another media type. A page of another site cannot send JSON unasked."""
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != expected:
        raise WebRefusal(415, "media-type", f"expected a body with Content-Type: {expected}")


def _read_form(body: bytes) -> dict[str, str]:
    try:
        return read_query(body.decode("ascii"))
    except UnicodeDecodeError as error:
        raise ConfigurationError("the form is not percent-encoded") from error


def _merge(query: dict[str, str], path: dict[str, str]) -> dict[str, str]:
    twice = next((name for name in query if name in path), None)
    if twice is not None:
        raise ConfigurationError(f"<{twice}> stands in the path; leave it out of the query")
    return {**query, **path}
