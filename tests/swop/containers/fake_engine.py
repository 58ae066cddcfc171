"""A Docker engine of memory alone, behind its real API on a Unix socket: the `docker` package cannot tell.

It keeps images, volumes and containers, and what was asked of it; tests say what containers print and how they end, and
how it fails. It runs in a thread with an event loop of its own, as an engine is no part of whoever asks.
"""

import asyncio
import base64
import contextlib
import dataclasses
import datetime as dt
import hashlib
import io
import json
import re
import struct
import tarfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from aiohttp import web

Json = dict[str, Any]
ZERO = "0001-01-01T00:00:00Z"


@dataclasses.dataclass
class Fault:
    """What is answered in place of the truth."""

    status: int = 500
    message: str = "something is wrong"
    delay_s: float = 0.0
    garbage: bytes | None = None
    after: bool = False
    """Done first, and only then answered so."""
    times: int = 1_000_000


@dataclasses.dataclass
class Container:
    id: str
    name: str
    config: Json
    status: str = "created"
    exit_code: int = 0
    oom: bool = False
    error: str = ""
    started_at: str = ZERO
    finished_at: str = ZERO
    log: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    """Stamp and piece."""
    archives: list[tuple[str, dict[str, tarfile.TarInfo]]] = dataclasses.field(default_factory=list)
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    """Put there by tests."""
    stopped_with: int | None = None

    @property
    def host(self) -> Json:
        config: Json = self.config["HostConfig"]
        return config

    @property
    def running(self) -> bool:
        return self.status in ("running", "paused")


@dataclasses.dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


def now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


class FakeEngine:
    """Enter to start."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.images: dict[str, str] = {}
        """Tag, with its `:`, to id."""
        self.image_labels: dict[str, Json] = {}
        """By id, of those that were built."""
        self.volumes: dict[str, Json] = {}
        self.contents: dict[str, bytes] = {}
        """Volume to the tar that was put into it."""
        self.containers: dict[str, Container] = {}
        self.asked: list[Asked] = []
        self.faults: dict[tuple[str, str], Fault] = {}
        """Method and a regular expression of the path without its version."""
        self.security: list[str] = ["name=seccomp,profile=builtin"]
        self.build_says: list[Json] = [{"stream": "Step 1/1 : FROM base\n"}]
        self.built_context: bytes = b""
        self.pull_says: list[Json] = [{"status": "Pull complete", "id": "abc"}]
        self.any_label = False
        """Whether things are listed by any of the labels, as Podman does with volumes."""
        self.stopped = False
        """Whether it ever was, before the end."""
        self._loop: asyncio.AbstractEventLoop
        self._changed: asyncio.Condition
        self._stop: asyncio.Event
        self._thread: threading.Thread
        self._started = threading.Event()

    # --- for tests ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Go on with all that there was."""
        self._started.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="fake engine")
        self._thread.start()
        assert self._started.wait(10)

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Like an engine that is shut down; what it knew is still known to tests."""
        self.stopped = True
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)

    def add_image(self, tag: str) -> str:
        self.images[tag if ":" in tag.rpartition("/")[2] else f"{tag}:latest"] = image_id(tag)
        return image_id(tag)

    def of(self, part: str) -> Container:
        """The one container of this part."""
        found = [c for c in self.containers.values() if c.config["Labels"].get("swarmlearning.part") == part]
        assert len(found) == 1, found
        return found[0]

    def say(self, container: Container, text: str, stamp: str | None = None) -> None:
        """Have a container print; without a newline at its end it is part of a line."""
        self._do(lambda: container.log.append((stamp or now(), text.encode())))

    def end(self, container: Container, exit_code: int, *, oom: bool = False, error: str = "") -> None:
        """Have a container end by itself."""

        def work() -> None:
            container.status, container.exit_code, container.oom, container.error = "exited", exit_code, oom, error
            container.finished_at = now()

        self._do(work)

    def make_ready(self, container: Container) -> None:
        """What an SL does when it is ready."""
        self._do(lambda: container.files.update({"/var/lib/swarm/data/ready.json": b'{"pid":7}'}))

    def calls(self, method: str, pattern: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == method and re.fullmatch(pattern, asked.path)]

    def _do(self, work: Callable[[], object]) -> None:
        async def main() -> None:
            async with self._changed:
                work()
                self._changed.notify_all()

        asyncio.run_coroutine_threadsafe(main(), self._loop).result(10)

    # --- serving ------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed, self._stop = asyncio.Condition(), asyncio.Event()

        @web.middleware
        async def answer(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            return await self._answer(request, handler)

        app = web.Application(middlewares=[answer], client_max_size=1 << 30)
        for method, path, handler in self._routes():
            app.router.add_route(method, "/{version:v[0-9.]+}" + path, handler)
            app.router.add_route(method, path, handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self.socket.unlink(missing_ok=True)
        site = web.UnixSite(runner, str(self.socket))
        await site.start()
        self._started.set()
        await self._stop.wait()
        async with self._changed:
            self._changed.notify_all()
        await runner.cleanup()
        self.socket.unlink(missing_ok=True)

    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        path = re.sub(r"^/v[0-9.]+", "", request.path)
        self.asked.append(
            Asked(request.method, path, dict(request.query), await body_of(request), dict(request.headers))
        )
        for (method, pattern), fault in self.faults.items():
            if method == request.method and re.fullmatch(pattern, path) and fault.times > 0:
                fault.times -= 1
                if fault.after:
                    await handler(request)
                await asyncio.sleep(fault.delay_s)
                if fault.garbage is not None:
                    return web.Response(body=fault.garbage, content_type="application/json")
                if fault.status:
                    return problem(fault.status, fault.message)
        return await handler(request)

    def _routes(self) -> list[tuple[str, str, Any]]:
        one = "/containers/{id}"
        return [
            ("GET", "/version", self._version),
            ("GET", "/info", self._info),
            ("GET", "/images/{name:.+}/json", self._image),
            ("POST", "/images/create", self._pull),
            ("POST", "/images/{name:.+}/tag", self._tag),
            ("POST", "/build", self._build),
            ("POST", "/volumes/create", self._make_volume),
            ("GET", "/volumes", self._list_volumes),
            ("GET", "/volumes/{name}", self._volume),
            ("DELETE", "/volumes/{name}", self._remove_volume),
            ("POST", "/containers/create", self._create),
            ("GET", "/containers/json", self._list),
            ("GET", one + "/json", self._inspect),
            ("POST", one + "/start", self._start),
            ("POST", one + "/stop", self._stop_one),
            ("POST", one + "/unpause", self._unpause),
            ("DELETE", one, self._remove),
            ("GET", one + "/logs", self._logs),
            ("PUT", one + "/archive", self._put),
            ("GET", one + "/archive", self._get),
        ]

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"Version": "27.3.1", "ApiVersion": "1.47", "MinAPIVersion": "1.24"})

    async def _info(self, _: web.Request) -> web.Response:
        return web.json_response({"SecurityOptions": self.security, "OSType": "linux"})

    # --- images -------------------------------------------------------------------------------------------------

    def _find_image(self, name: str) -> str | None:
        if name in self.images.values():
            return name
        return self.images.get(name if ":" in name.rpartition("/")[2] else f"{name}:latest")

    async def _image(self, request: web.Request) -> web.Response:
        found = self._find_image(request.match_info["name"])
        if found is None:
            return problem(404, f"No such image: {request.match_info['name']}")
        return web.json_response({"Id": found, "Config": {"Labels": self.image_labels.get(found)}})

    async def _tag(self, request: web.Request) -> web.Response:
        found = self._find_image(request.match_info["name"])
        if found is None:
            return problem(404, "No such image")
        self.images[f"{request.query['repo']}:{request.query['tag']}"] = found
        return web.Response(status=201)

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        response = await stream(request, self.pull_says)
        if not any("error" in item for item in self.pull_says):
            self.add_image(f"{request.query['fromImage']}:{request.query['tag']}")
        await response.write_eof()
        return response

    async def _build(self, request: web.Request) -> web.StreamResponse:
        self.built_context = await body_of(request)
        response = await stream(request, self.build_says)
        if not any("error" in item for item in self.build_says):
            built = self.add_image(request.query["t"])
            self.image_labels[built] = json.loads(request.query.get("labels", "{}"))
        await response.write_eof()
        return response

    # --- volumes ------------------------------------------------------------------------------------------------

    async def _make_volume(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        made = self.volumes.setdefault(body["Name"], {"Name": body["Name"], "Labels": body.get("Labels")})
        return web.json_response(made, status=201)

    async def _list_volumes(self, request: web.Request) -> web.Response:
        wanted = json.loads(request.query.get("filters", "{}")).get("label", [])
        some = any if self.any_label and wanted else all
        found = [v for v in self.volumes.values() if some(matches(v["Labels"], label) for label in wanted)]
        return web.json_response({"Volumes": found or None, "Warnings": None})

    async def _volume(self, request: web.Request) -> web.Response:
        found = self.volumes.get(request.match_info["name"])
        return problem(404, "no such volume") if found is None else web.json_response(found)

    async def _remove_volume(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.volumes:
            return problem(404, "no such volume")
        users = [c.name for c in self.containers.values() if name in sources(c)]
        if users:
            return problem(409, f"volume is in use - {users}")
        del self.volumes[name]
        self.contents.pop(name, None)
        return web.Response(status=204)

    # --- containers ---------------------------------------------------------------------------------------------

    def _one(self, request: web.Request) -> Container:
        wanted = request.match_info["id"]
        for container in self.containers.values():
            if wanted in (container.id, container.name):
                return container
        raise web.HTTPNotFound(
            text=json.dumps({"message": f"No such container: {wanted}"}), content_type="application/json"
        )

    async def _create(self, request: web.Request) -> web.Response:
        config, name = await body_of(request), request.query.get("name") or f"helper{len(self.asked)}"
        if any(c.name == name for c in self.containers.values()):
            return problem(409, f'Conflict. The container name "/{name}" is already in use')
        if self._find_image(config["Image"]) is None:
            return problem(404, f"No such image: {config['Image']}")
        for mount in config["HostConfig"].get("Mounts", []):
            if mount["Type"] == "bind" and not exists(mount["Source"]):
                return problem(400, f"invalid mount config: bind source path does not exist: {mount['Source']}")
        made = Container(id=hashlib.sha256(f"{name}{len(self.asked)}".encode()).hexdigest(), name=name, config=config)
        self.containers[made.id] = made
        return web.json_response({"Id": made.id, "Warnings": []}, status=201)

    async def _list(self, request: web.Request) -> web.Response:
        wanted = json.loads(request.query.get("filters", "{}")).get("label", [])
        some = any if self.any_label and wanted else all
        return web.json_response(
            [
                {"Id": c.id, "Names": [f"/{c.name}"], "State": c.status, "Labels": c.config.get("Labels") or {}}
                for c in self.containers.values()
                if some(matches(c.config.get("Labels"), label) for label in wanted)
            ]
        )

    async def _inspect(self, request: web.Request) -> web.Response:
        c = self._one(request)
        state = {
            "Status": c.status,
            "Running": c.running,
            "Paused": c.status == "paused",
            "OOMKilled": c.oom,
            "ExitCode": c.exit_code,
            "Error": c.error,
            "StartedAt": c.started_at,
            "FinishedAt": c.finished_at,
        }
        return web.json_response({"Id": c.id, "Name": f"/{c.name}", "State": state, "Config": {"Tty": False}})

    async def _start(self, request: web.Request) -> web.Response:
        container = self._one(request)
        if container.running:
            return web.Response(status=304)
        container.status, container.started_at = "running", now()
        return web.Response(status=204)

    async def _stop_one(self, request: web.Request) -> web.Response:
        container = self._one(request)
        container.stopped_with = int(request.query["t"])
        if container.running:
            async with self._changed:
                container.status, container.exit_code, container.finished_at = "exited", 143, now()
                self._changed.notify_all()
        return web.Response(status=204)

    async def _unpause(self, request: web.Request) -> web.Response:
        self._one(request).status = "running"
        return web.Response(status=204)

    async def _remove(self, request: web.Request) -> web.Response:
        container = self._one(request)
        async with self._changed:
            del self.containers[container.id]
            container.status = "exited"
            self._changed.notify_all()
        return web.Response(status=204)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        container = self._one(request)
        since = dt.datetime.fromtimestamp(float(request.query.get("since", 0)), dt.UTC)
        response = web.StreamResponse(headers={"Content-Type": "application/vnd.docker.raw-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # whoever followed is gone
            await self._send_log(request, response, container, since)
            await response.write_eof()
        return response

    async def _send_log(
        self, request: web.Request, response: web.StreamResponse, container: Container, since: dt.datetime
    ) -> None:
        sent = 0
        if request.query.get("tail", "all") != "all":
            sent = max(len(container.log) - int(request.query["tail"]), 0)
        while True:
            for stamp, piece in container.log[sent:]:
                sent += 1
                if dt.datetime.fromisoformat(stamp) >= since:
                    text = f"{stamp} ".encode() + piece if request.query.get("timestamps") == "1" else piece
                    await response.write(struct.pack(">BxxxL", 1, len(text)) + text)
            async with self._changed:
                if request.query.get("follow") != "1" or not container.running or self._stop.is_set():
                    break
                if sent == len(container.log):
                    await self._changed.wait()

    async def _put(self, request: web.Request) -> web.Response:
        container = self._one(request)
        with tarfile.open(fileobj=io.BytesIO(await body_of(request))) as archive:
            members = {member.name: member for member in archive.getmembers()}
        container.archives.append((request.query["path"], members))
        for mount in container.host.get("Mounts", []):
            if mount["Type"] == "volume" and mount["Target"] == request.query["path"]:
                self.contents[mount["Source"]] = await body_of(request)
        return web.Response()

    async def _get(self, request: web.Request) -> web.Response:
        container, path = self._one(request), request.query["path"]
        data = container.files.get(path)
        for mount in container.host.get("Mounts", []):
            if mount["Type"] == "volume" and mount["Target"] == path and mount["Source"] in self.contents:
                data = self.contents[mount["Source"]]  # tests read names within the directory `content`
                body = below(path.rpartition("/")[2], data)
                return web.Response(body=body, headers={"X-Docker-Container-Path-Stat": stat_of(path, len(body))})
        if data is None:
            return problem(404, f"Could not find the file {path} in container {container.id}")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            entry = tarfile.TarInfo(path.rpartition("/")[2])
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        return web.Response(body=buffer.getvalue(), headers={"X-Docker-Container-Path-Stat": stat_of(path, len(data))})


async def body_of(request: web.Request) -> Any:
    raw = await request.read()
    return json.loads(raw) if raw and request.content_type == "application/json" else raw


def exists(path: str) -> bool:
    return Path(path).exists()


def image_id(tag: str) -> str:
    return "sha256:" + hashlib.sha256(tag.encode()).hexdigest()


def problem(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)


def stat_of(path: str, size: int) -> str:
    return base64.b64encode(json.dumps({"name": path.rpartition("/")[2], "size": size}).encode()).decode()


def below(directory: str, archive: bytes) -> bytes:
    """The same tar, with all names below a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as given, tarfile.open(fileobj=buffer, mode="w") as made:
        top = tarfile.TarInfo(directory)
        top.type = tarfile.DIRTYPE
        made.addfile(top)
        for member in given:
            data = given.extractfile(member) if member.isreg() else None
            member.name = f"{directory}/{member.name}"
            if member.islnk():
                member.linkname = f"{directory}/{member.linkname}"
            made.addfile(member, data)
    return buffer.getvalue()


def matches(labels: Json | None, wanted: str) -> bool:
    name, _, value = wanted.partition("=")
    return (labels or {}).get(name) == value


def sources(container: Container) -> list[str]:
    return [mount["Source"] for mount in container.host.get("Mounts", []) if mount["Type"] == "volume"]


async def stream(request: web.Request, items: list[Json]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for item in items:
        await response.write(json.dumps(item).encode() + b"\r\n")
    return response
