"""Who may ask the REST service, and what each caller has for itself: docs/spec/swci-web.md, CI-20 to CI-23."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import cast

import pytest
import urllib3
from msgspec.structs import replace
from swci_world import A, B, Swarm
from web_table import TABLE
from web_world import HOST, Caller, Service, serving

from swarmlearning.clock import system_clock
from swarmlearning.contracts.messages import CreateContract, Payload, RevokeCertificate, Tx
from swarmlearning.encoding import decode
from swarmlearning.errors import ConfigurationError, Unreachable
from swarmlearning.identity.authority import Authority, create_ca, issue_certificate
from swarmlearning.identity.certificate import fingerprint
from swarmlearning.ledger.boundary import StoredBlock
from swarmlearning.local.network import NETWORK
from swarmlearning.swci.contexts import IdentityPaths, MemoryContexts
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.session import Output, Session
from swarmlearning.swci.web.serve import LIMITS, WebConfig, WebNode
from swarmlearning.swci.web.sessions import Sessions
from swarmlearning.transport.server import ServerLimits
from swarmlearning.types import ContractName, Endpoint, NodeId, NodeName, Role

EVERYWHERE = [
    ("POST", "/exec?cmd=PWD"),
    ("POST", "/uploadTaskDef"),
    ("GET", "/v1/directory"),
    ("GET", "/v1/events"),
    ("GET", "/v1/openapi.json"),
    ("GET", "/nowhere"),
]


@pytest.mark.parametrize(("method", "path"), EVERYWHERE)
@pytest.mark.parametrize("role", [role for role in Role if role is not Role.OPERATOR])
def test_ci20_every_role_but_operator_is_refused_and_told_which_is_needed(
    small: Service, role: Role, method: str, path: str
) -> None:
    answer = small.caller(role=role).ask(method, path)
    status, code, detail = answer.problem
    assert (status, code) == (403, "role")
    assert f"has the role {role.value}; this needs the role operator" in detail
    assert "\n" not in detail
    compatible = path.startswith(("/exec", "/upload"))
    assert answer.json.get("CONTENT") == ([f"ERROR {detail}"] if compatible else None)


@pytest.mark.parametrize(("method", "path"), EVERYWHERE)
def test_ci20_another_organisations_operator_is_refused(small: Service, method: str, path: str) -> None:
    foreign = small.swarm.identity(domain=B)
    own = small.swarm.identity()
    mixed = IdentityPaths(cert=foreign.cert, key=foreign.key, cacert=own.cacert)
    status, code, detail = small.caller(identity=mixed).ask(method, path).problem
    assert (status, code) == (403, "foreign-organisation")
    assert "ci-operator@b.example" in detail


def test_ci21_no_certificate_no_connection(small: Service) -> None:
    pool = urllib3.PoolManager(ca_certs=small.swarm.identity().cacert, retries=False)
    with pytest.raises((urllib3.exceptions.SSLError, urllib3.exceptions.ProtocolError)):
        pool.request("POST", small.base + "/exec?cmd=PWD")
    pool.clear()


def test_ci21_a_certificate_of_an_unknown_authority_gets_no_connection(small: Service, tmp_path: Path) -> None:
    made = create_ca(tmp_path / "ca", A, at_ms=system_clock())
    with pytest.raises((urllib3.exceptions.SSLError, urllib3.exceptions.ProtocolError)):
        small.caller(identity=forged(small.swarm, made, tmp_path)).get("/v1/directory")


def test_ci21_another_organisations_authority_cannot_name_an_operator_of_ours(small: Service, tmp_path: Path) -> None:
    theirs = Authority.load(small.swarm.workdir / B / "ca")
    lie = Authority(A, theirs.certificate, theirs._key)  # an honest one would refuse
    answer = small.caller(identity=forged(small.swarm, lie, tmp_path)).get("/v1/directory")
    status, code, detail = answer.problem
    assert (status, code) == (403, "certificate")
    assert "none of the 1 authorities of a.example" in detail


def forged(swarm: Swarm, authority: Authority, directory: Path) -> IdentityPaths:
    name = NodeName(domain=A, network=NETWORK, role=Role.OPERATOR, name="mallory")
    issued = issue_certificate(authority, name, [], directory / "lie", at_ms=system_clock())
    return IdentityPaths(cert=str(issued.certificate), key=str(issued.key), cacert=swarm.identity().cacert)


@pytest.mark.parametrize("where", ["open connection", "new connection", "command that goes on", "events"])
def test_ci21_a_certificate_that_is_revoked_on_the_ledger_counts_no_more(small: Service, where: str) -> None:
    caller = small.caller()
    assert caller.say("PWD")
    if where == "command that goes on":
        answers = []
        asking = threading.Thread(target=lambda: answers.append(caller.ask("POST", "/exec?cmd=WAIT%20HERE%201000")))
        asking.start()
        until_running(small, caller, "WAIT HERE")
        revoke(small.swarm, caller)
        asking.join(20)
        assert answers[0].problem[:2] == (403, "certificate")
        assert "was revoked by a.example" in answers[0].problem[2]
        assert answers[0].headers["Connection"] == "close"
    elif where == "events":
        response = caller.pool.request("GET", small.base + "/v1/events", preload_content=False)
        revoke(small.swarm, caller)
        text = b"".join(response.stream()).decode()  # until the service ends it
        assert text.rstrip().splitlines()[-2] == "event: end"
        assert "was revoked by a.example" in text.splitlines()[-2]
    else:
        revoke(small.swarm, caller)
        if where == "new connection":
            caller.close()
        until_refused(caller)


def revoke(swarm: Swarm, caller: Caller) -> None:
    async def main() -> None:
        der = caller.identity.source().load(system_clock()).certificate_der
        async with swarm.submitter() as submitter:
            await submitter.require(RevokeCertificate(fingerprint=fingerprint(der)))

    asyncio.run(main())


def until_refused(caller: Caller) -> None:
    """The service follows the ledger a moment later."""
    while True:
        answer = caller.get("/v1/openapi.json")
        if answer.status != 200:
            assert answer.problem[:2] == (403, "certificate")
            return


def until_running(small: Service, caller: Caller, verb: str) -> None:
    """Until a command of the caller's goes on."""
    node = caller.identity.source().load(system_clock()).node.id

    async def running() -> None:
        while True:
            held = small.node._sessions._held.get(node)
            if held is not None and held.running == verb:
                return
            await asyncio.sleep(0.01)

    asyncio.run_coroutine_threadsafe(running(), small.loop).result(20)


# --- what each caller has for itself ----------------------------------------------------------------------------


def test_ci22_callers_have_directories_and_contexts_of_their_own(service: Service) -> None:
    (service.root / "mine").mkdir()
    one, other = service.caller(), service.caller()
    host, port = service.swarm.sn().host, service.swarm.sn().port
    assert one.say("CD mine") == [f"Current Directory : {service.root}/mine"]
    assert one.say(f"CREATE CONTEXT mine WITH IP {host} {port}")[-1] == "CONTEXT CREATED : mine"
    assert one.say("SWITCH CONTEXT mine") == ["DEFAULT CONTEXT SET TO : mine"]
    assert other.say("PWD") == [f"Current Directory : {service.root}"]
    assert other.say("LIST CONTEXTS") == ["default"]
    assert one.say("LIST CONTEXTS") == ["default", "mine"]
    assert one.get("/v1/directory").json == f"{service.root}/mine"
    assert "CONTEXT : mine" in one.say("GET CONTEXT INFO")


def test_ci22_the_session_speaks_as_the_service_to_its_sn(service: Service) -> None:
    (context,) = service.caller().get("/v1/contexts").json
    assert context["context"] == "default"
    assert context["address"] == str(service.swarm.sn())
    assert context["node"] == "spiffe://a.example/local/operator/rest"


ESCAPES = ["..", "/", "/etc", "out", "a/../..", "~", "~root", "/platform/swarm/usr/../..", "a" * 300]


@pytest.mark.parametrize("escape", ESCAPES)
def test_ci22_files_stay_below_the_root(small: Service, escape: str) -> None:
    (small.root / "a").mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (small.root / "out").symlink_to("/etc")
    caller = small.caller()
    assert caller.say(f"CD {escape}")[0].startswith("ERROR ")
    assert caller.put("/v1/directory", directory=escape).status in (400, 404)
    assert caller.get("/v1/directory").json == str(small.root)


@pytest.mark.parametrize(
    "line",
    [
        *("CREATE TASK FROM ../secret.yaml", "CREATE TASK FROM {outside}", "EXPORT LEDGER ../ledger"),
        *("EXPORT LEDGER /tmp/l", "GET CONTEXT ENV HOME", "GET CONTEXT ENV default SWARM_ID_KEY"),
    ],
)
def test_ci22_no_command_tells_what_the_services_files_and_environment_hold(
    service: Service, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_ID_KEY", "swordfish")
    outside = service.root.parent / "secret.yaml"
    outside.write_text("swordfish: 1\n")
    (said,) = service.caller().say(line.format(outside=outside))
    assert said.startswith("ERROR ")
    assert "lies outside" in said or "has no variable" in said
    assert "swordfish" not in said
    assert not (service.root.parent / "ledger").exists()


@pytest.mark.parametrize("command", ["CREATE CONTEXT other WITH IP", "WAIT FOR IP"])
def test_ci12_ci13_another_node_of_ours_is_no_sn_and_waiting_does_not_make_it_one(
    service: Service, command: str
) -> None:
    caller = service.caller()
    said = caller.say(f"{command} {HOST} {service.port}")
    expected = f"{HOST}:{service.port} is rest@a.example, whose role is operator; expected an SN's API"
    assert said[-1] == f"ERROR {expected}"
    assert caller.say("LIST CONTEXTS") == ["default"]


def test_ci22_exit_ends_the_session_and_the_next_request_begins_anew(small: Service) -> None:
    (small.root / "anew").mkdir()
    caller = small.caller()
    caller.say("CD anew")
    assert caller.say("EXIT") == []
    assert caller.say("PWD") == [f"Current Directory : {small.root}"]


def test_ci22_after_exit_on_failure_a_failure_ends_the_session(small: Service) -> None:
    (small.root / "failing").mkdir()
    caller = small.caller()
    caller.say("CD failing")
    caller.say("FAIL CONFLICT")
    assert caller.say("PWD") == [f"Current Directory : {small.root}/failing"]
    assert caller.say("EXIT ON FAILURE") == ["EXIT ON FAILURE IS TURNED ON"]
    caller.say("FAIL CONFLICT")
    assert caller.say("PWD") == [f"Current Directory : {small.root}"]


def test_ci22_a_transaction_names_the_caller_and_is_signed_by_the_service(small: Service) -> None:
    caller = small.caller()
    name = small.swarm.fresh("signed/by")
    (line,) = caller.say(f"SIGN {name}")
    asked = caller.identity.source().load(system_clock()).node.id

    async def look() -> tuple[Tx, bytes]:
        async with small.swarm.client() as client:
            blocks = client.blocks(int(line))
            (tx,) = (await anext(blocks)).txs
            await cast("AsyncGenerator[StoredBlock, None]", blocks).aclose()
            nodes = (await client.directory()).nodes
            (key,) = (node.key for node in nodes if node.node == "spiffe://a.example/local/operator/rest")
            return decode(tx, Tx), key

    tx, service_key = asyncio.run(look())
    payload = decode(tx.payload, Payload)
    assert payload.message == CreateContract(contract=ContractName(name))
    assert payload.caller == asked
    assert tx.signer == service_key


# --- one after another ------------------------------------------------------------------------------------------


def test_ci23_commands_of_one_caller_wait_for_each_other_and_those_of_others_do_not(small: Service) -> None:
    slow, same = small.caller("slow"), small.caller("slow")
    other = small.caller()
    answers: list[list[str]] = []
    first = threading.Thread(target=lambda: answers.append(slow.say("WAIT HERE 4")))
    first.start()
    until_running(small, slow, "WAIT HERE")
    assert other.say("PWD")
    assert answers == []  # the other caller did not wait for it
    assert same.say("GIVE build 1")[0] == "giving 1"
    first.join(2)
    assert answers == [["WAITING"]]  # the same one did: else 4 seconds would not be over yet


def test_ci23_who_hangs_up_ends_the_command(small: Service) -> None:
    caller = small.caller()
    with connected(caller, small.port) as raw:
        raw.sendall(b"POST /exec?cmd=WAIT%20HERE%201000 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        until_running(small, caller, "WAIT HERE")
    assert caller.say("PWD")  # in much less than 1000 s


def test_ci23_another_command_is_refused_while_one_goes_on_for_long(swarm: Swarm, tmp_path: Path) -> None:
    with serving(swarm, tmp_path, TABLE, busy_s=0.3) as made:
        slow = made.caller()
        same = made.caller(identity=slow.identity)
        first = threading.Thread(target=lambda: slow.say("WAIT HERE 2"))
        first.start()
        until_running(made, slow, "WAIT HERE")
        status, code, detail = same.ask("POST", "/exec?cmd=PWD").problem
        first.join()
    assert (status, code) == (429, "busy")
    assert "another command of yours goes on: WAIT HERE, for" in detail


def test_ci23_the_oldest_idle_session_makes_room_and_a_busy_one_does_not(swarm: Swarm, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with serving(swarm, tmp_path, TABLE, sessions=2) as made:
        first, second, third = made.caller(), made.caller(), made.caller()
        first.say("CD d")
        second.say("CD d")
        third.say("PWD")
        assert second.say("PWD")[0].endswith("/d")
        assert not first.say("PWD")[0].endswith("/d")  # it made room, and now third has
        waiting = [threading.Thread(target=caller.say, args=("WAIT HERE 2",)) for caller in (first, second)]
        for thread in waiting:
            thread.start()
        for caller in (first, second):
            until_running(made, caller, "WAIT HERE")
        status, code, detail = third.ask("POST", "/exec?cmd=PWD").problem
        assert (status, code) == (429, "busy")
        assert "2 callers have commands going on" in detail
        assert "(WAIT HERE)" in detail
        for thread in waiting:
            thread.join()
        assert third.say("PWD")


def test_ci23_who_waited_while_the_session_was_ended_begins_a_new_one(tmp_path: Path) -> None:
    def make(caller: NodeId, output: Output) -> Session:
        return Session(
            contexts=MemoryContexts(), directory=Directory(tmp_path), output=output, identity=IdentityPaths()
        )

    async def story() -> None:
        sessions = Sessions(make)
        me = NodeId("spiffe://a.example/net/operator/me")
        used: list[Session] = []

        async def use() -> None:
            async with sessions.use(me, "PWD") as held:
                used.append(held.session)

        async with sessions.use(me, "EXIT") as held:
            waiting = [asyncio.create_task(use()) for _ in range(2)]
            await asyncio.sleep(0)
            held.session.ended = True
        await asyncio.gather(*waiting)
        assert used[0] is used[1]
        assert used[0] is not held.session
        assert not used[0].ended
        assert len(sessions) == 1
        await sessions.close()

    asyncio.run(story())


# --- the same guarantees as for nodes ---------------------------------------------------------------------------


FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
JSON = b"Content-Type: application/json\r\n"


@contextlib.contextmanager
def connected(caller: Caller, port: int) -> Iterator[ssl.SSLSocket]:
    """A bare connection as a caller, verified like any."""
    context = ssl.create_default_context(cafile=caller.identity.cacert)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    context.load_cert_chain(caller.identity.cert, caller.identity.key)
    with (
        socket.create_connection((HOST, port), timeout=20) as bare,
        context.wrap_socket(bare, server_hostname=HOST) as raw,
    ):
        yield raw


def read_all(raw: ssl.SSLSocket) -> bytes:
    with contextlib.suppress(OSError):
        return b"".join(iter(lambda: raw.recv(65536), b""))
    return b""


@pytest.fixture(scope="module")
def narrow(swarm: Swarm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with narrow limits."""
    limits = ServerLimits(connections_per_peer=2, request_s=0.5, idle_s=0.5, handshake_s=0.5, shutdown_s=0.2)
    with serving(swarm, tmp_path_factory.mktemp("narrow"), TABLE, limits=limits) as made:
        yield made


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /exec?cmd=PWD HTTP/1.1\r\nHost: a\r\nA:",
        b"POST /exec HTTP/1.1\r\nHost: a\r\n" + FORM + b"Content-Length: 9\r\n\r\ncmd",
    ],
    ids=["nothing", "half a header", "half a body"],
)
def test_x11_a_client_that_stalls_is_hung_up_on(narrow: Service, sent: bytes) -> None:
    caller = narrow.caller()
    with connected(caller, narrow.port) as raw:
        raw.sendall(sent)
        assert read_all(raw) == b""
    assert caller.say("PWD")


def test_x11_an_idle_connection_is_closed(narrow: Service) -> None:
    with connected(narrow.caller(), narrow.port) as raw:
        raw.sendall(b"GET /v1/directory HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_all(raw).startswith(b"HTTP/1.1 200")


def test_x11_one_caller_cannot_take_all_connections(narrow: Service) -> None:
    caller, other = narrow.caller(), narrow.caller()
    with connected(caller, narrow.port), connected(caller, narrow.port):
        status, code, detail = caller.get("/v1/directory").problem
        assert (status, code) == (429, "busy")
        assert "too many connections" in detail
        assert other.say("PWD")


@pytest.mark.parametrize(
    ("head", "answered"),
    [
        (b"POST /exec HTTP/1.1\r\nHost: a\r\n" + FORM + b"Content-Length: 1048577\r\n\r\n", b"HTTP/1.1 413"),
        (b"PUT /v1/directory HTTP/1.1\r\nHost: a\r\n" + JSON + b"Content-Length: 1048577\r\n\r\n", b"HTTP/1.1 413"),
        (b"POST /exec?cmd=" + b"e" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.0 400"),
        (b"POST /exec?cmd=PWD HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 99 + b"\r\n", b"HTTP/1.0 400"),
        (b"\x00\x01garbage\r\n\r\n", b"HTTP/1.0 400"),
        (b"GET http://evil.example/v1/directory HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"HTTP/1.1 404"),
    ],
    ids=["form", "json", "target", "fields", "garbage", "absolute"],
)
def test_x11_requests_beyond_the_limits_are_refused(small: Service, head: bytes, answered: bytes) -> None:
    with connected(small.caller(), small.port) as raw:
        raw.sendall(head)
        assert read_all(raw).startswith(answered)


def test_x11_a_client_that_asks_first_is_told_to_go_on_and_a_refused_one_is_not(small: Service) -> None:
    head = b"PUT /v1/directory HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\n"
    with connected(small.caller(), small.port) as raw:
        raw.sendall(head + JSON + b"Content-Length: 17\r\n\r\n")
        assert raw.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(b'{"directory":"."}')
        assert read_all(raw).startswith(b"HTTP/1.1 200")
    with connected(small.caller(), small.port) as raw:
        raw.sendall(head + FORM + b"Content-Length: 17\r\n\r\n")
        assert read_all(raw).startswith(b"HTTP/1.1 415")


# --- starting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.OPERATOR])
def test_ci20_the_service_itself_must_be_an_operator(swarm: Swarm, tmp_path: Path, role: Role) -> None:
    config = WebConfig(sn=swarm.sn(), host=HOST, port=0, root=tmp_path, identity=swarm.identity(role))
    with pytest.raises(
        ConfigurationError, match=f"has the role {role.value}; the REST service needs the role operator"
    ):
        WebNode(config)


@pytest.mark.parametrize("moved", ["cert", "key", "cacert", "capath", "sign_key", "link"])
def test_ci22_callers_cannot_reach_the_services_own_identity(swarm: Swarm, tmp_path: Path, moved: str) -> None:
    root = tmp_path / "usr"
    root.mkdir()
    identity = swarm.identity(name="rest")
    config = WebConfig(sn=swarm.sn(), host="127.0.0.1", port=0, root=root, identity=identity)
    WebNode(config)
    inside = root / "pki"
    inside.mkdir()
    if moved == "link":
        (inside / "key.pem").symlink_to(identity.key)
        identity = replace(identity, key=str(inside / "key.pem"))
    elif moved in ("capath", "sign_key"):
        identity = replace(identity, **{moved: str(inside)})
    else:
        path = Path(shutil.copy(getattr(identity, moved), inside))
        identity = replace(identity, **{moved: str(path)})
    with pytest.raises(ConfigurationError, match="keep the identity's files elsewhere"):
        WebNode(replace(config, identity=identity))


def test_ci21_a_service_whose_sn_does_not_say_who_belongs_to_the_network_serves_nobody(
    swarm: Swarm, tmp_path: Path
) -> None:
    async def start() -> None:
        with socket.create_server((HOST, 0)) as silent:
            config = WebConfig(
                sn=Endpoint(host=HOST, port=silent.getsockname()[1]),
                host=HOST,
                port=0,
                root=tmp_path,
                identity=swarm.identity(),
                limits=LIMITS,
                start_wait_s=0.5,
            )
            node = WebNode(config)
            with pytest.raises(Unreachable, match=r"did not say within 0\.5 s who belongs to the network"):
                await node.start()
            assert node._listener.connections == 0
            await node.stop()

    asyncio.run(start())
