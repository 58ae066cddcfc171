"""The shell: completion, help, history and interruption, through a pipe and as a real process on a terminal."""

import asyncio
import io
import os
import re
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest
from msgspec.structs import replace
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from swci_world import CONTEXT, Swarm, in_session

from swarmlearning.errors import ExitCode
from swarmlearning.swci import names as names_module
from swarmlearning.swci.completing import explain_typed, find_offers, read_typed
from swarmlearning.swci.contexts import Book, Context, IdentityPaths, MemoryContexts
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.names import Names
from swarmlearning.swci.screen import Screen
from swarmlearning.swci.session import Collected, Session
from swarmlearning.swci.shell import MAX_HISTORY, LineHistory, Shell, TableCompleter
from swarmlearning.swci.table import COMMANDS
from swarmlearning.types import Endpoint, Role

NAMES = {
    "agents": ["swop1@a.example"],
    "contexts": ["heart", "lung"],
    "contracts": ["defaultbb.cqdb.sml.hpe", "heart/v2"],
    "proposals": ["7"],
    "runners": ["defaulttaskbb.taskdb.sml.hpe"],
    "tasks": ["ROOTTASK", "user_env_build_task"],
    "variables": ["SWCI_RUN_TASK_MAX_WAIT_TIME"],
}


async def known(source: str) -> Sequence[str]:
    return NAMES[source]


def offered(text: str, root: Path | None = None) -> list[str]:
    directory = Directory(root or Path(__file__).parent)
    return [offer.text for offer in asyncio.run(find_offers(COMMANDS, text, known, directory))]


# --- CI-18: what may come next --------------------------------------------------------------------------------------


def test_ci18_at_the_beginning_every_verb_is_offered() -> None:
    found = offered("")
    assert set(found) == {" ".join(entry.syntax.verb) for entry in COMMANDS}
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("swi", ["switch context"]),
        ("SWI", ["SWITCH CONTEXT"]),
        ("switch", ["switch context"]),
        ("switch ", ["context"]),
        ("switch context ", ["heart", "lung"]),
        ("switch context l", ["lung"]),
        ("SWITCH CONTEXT L", []),
        ("switch context heart ", []),
        ("create context mine w", ["with ip", "with service"]),
        ("CREATE CONTEXT mine WITH ", ["IP", "SERVICE"]),
        ("create context mine with ip ", []),
        ("get contract info h", ["heart/v2"]),
        ("exit on failure ", ["on", "off"]),
        ("EXIT ON FAILURE O", ["ON", "OFF"]),
        ("SET CONTEXT ENV lu", ["lung"]),
        ("SET CONTEXT ENV S", ["SWCI_RUN_TASK_MAX_WAIT_TIME"]),
        ("help create con", ["context", "contract"]),
        ("help wa", ["watch contract", "wait for ip", "wait for service", "wait for taskrunner"]),
        ("GET TASK BODY U", []),
        ("GET TASK BODY u", ["user_env_build_task"]),
        ("ASSIGN TASK user_env_build_task TO ", ["defaulttaskbb.taskdb.sml.hpe"]),
        ("nonsense ", []),
        ("# switch ", []),
        ("'swi", []),
    ],
)
def test_ci18_what_is_typed_is_completed_from_the_table_in_its_case(text: str, expected: list[str]) -> None:
    assert sorted(offered(text)) == sorted(expected)


def test_ci18_a_keyword_says_what_it_leads_to() -> None:
    directory = Directory(Path("/"))
    offers = {o.text: o.about for o in asyncio.run(find_offers(COMMANDS, "", known, directory))}
    assert offers["LIST CONTEXTS"] == "List the contexts."
    assert offers["CREATE CONTEXT"] == "2 commands"


def test_ci18_files_are_completed_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "task defs").mkdir(parents=True)
    (root / "task defs" / "build.yaml").touch()
    (root / "task.yaml").touch()
    (root / ".hidden").touch()
    (root / "esc\x1b").touch()
    (tmp_path / "outside").mkdir()
    assert offered("CREATE TASK FROM ", root) == ['"task defs/"', "task.yaml"]
    assert offered("CREATE TASK FROM t", root) == ['"task defs/"', "task.yaml"]
    assert offered("CREATE TASK FROM 'task defs/b", root) == ['"task defs/build.yaml"']
    assert offered("CREATE TASK FROM .", root) == [".hidden"]
    assert offered("cd ", root) == ['"task defs/"'], "only directories"
    assert offered("cd ../", root) == offered("cd /", root) == offered("cd nowhere/", root) == []


@pytest.mark.parametrize(
    ("text", "words", "started"),
    [
        ("", [], ""),
        ("a", [], "a"),
        ("a ", ["a"], ""),
        ("a 'b c", ["a"], "b c"),
        ('a "b\\', ["a"], "b\\"),
        ("a 'b'", ["a"], "b"),
        ("a b#", ["a"], "b#"),
    ],
)
def test_a_line_is_read_up_to_the_cursor(text: str, words: list[str], started: str) -> None:
    typed = read_typed(text)
    assert typed is not None
    assert [word.text for word in typed.words] == words
    assert typed.started == started


def test_ci18_what_is_offered_replaces_the_word_at_the_cursor(tmp_path: Path) -> None:
    (tmp_path / "task defs").mkdir()
    kept = MemoryContexts(Book(contexts=(Context(name=CONTEXT, sn=Endpoint(host="h", port=1)),), current=CONTEXT))
    session = Session(contexts=kept, directory=Directory(tmp_path), output=Collected(), identity=IdentityPaths())

    async def main(text: str) -> list[str]:
        completer = TableCompleter(COMMANDS, session, Names(session))
        found = completer.get_completions_async(Document(text), CompleteEvent())
        return [text[: len(text) + each.start_position] + each.text async for each in found]

    assert asyncio.run(main("cd 'ta")) == ['cd "task defs/"']
    assert asyncio.run(main("switch con")) == ["switch context"]
    assert asyncio.run(main("switch context ")) == ["switch context swarm"]
    assert asyncio.run(main("ls # com")) == []


def test_ci18_help_tells_all_of_few_commands_and_how_many_are_written() -> None:
    assert explain_typed(COMMANDS, "switch ") == [
        "SWITCH CONTEXT <context>",
        "  Let commands be about another network, here and in sessions that begin later.",
        "  Example: SWITCH CONTEXT heart",
    ]
    assert explain_typed(COMMANDS, "pwd")[0] == "PWD"
    assert explain_typed(COMMANDS, "SLEEP 7 ")[0] == "SLEEP <seconds>", "also once nothing more is needed"
    many = explain_typed(COMMANDS, "get ")
    assert "GET CONTEXT INFO [<context>]" in many
    assert many[-1].endswith("more: HELP GET")
    for text in ("", "  ", "nonsense", "# switch"):
        assert explain_typed(COMMANDS, text) == ["HELP lists all commands; Tab shows what may come next"]


# --- CI-18: names that there are ------------------------------------------------------------------------------------


def test_ci18_names_are_those_that_the_sn_has(swarm: Swarm) -> None:
    contract, runner, task = swarm.fresh("heart"), swarm.fresh("runner"), swarm.fresh("task")
    for done in swarm.say(
        f"CREATE CONTRACT {contract}",
        f"CREATE TASKRUNNER {runner}",
        f"CREATE TASK PULL_IMAGE {task} me ROOTTASK image",
    ):
        assert done is not None
        assert not done.failed, done.error

    async def work(session: Session, _said: Collected) -> dict[str, Sequence[str]]:
        names = Names(session)
        async with swarm.submitter(Role.SWOP, name="completed-agent"):
            found = {source: await names.get(source) for source in [*NAMES, "", "files"]}
        await names.close()
        return found

    found = in_session(swarm, work)
    assert contract in found["contracts"]
    assert runner in found["runners"]
    assert {"ROOTTASK", task} <= set(found["tasks"])
    assert "completed-agent@a.example" in found["agents"]
    assert "ci-operator@a.example" not in found["agents"]
    assert found["contexts"] == [CONTEXT]
    assert found["proposals"] == found["variables"] == () or found["variables"] == []
    assert found[""] == found["files"] == ()


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[Endpoint]:
    """Somebody who does something with every connection, and counts nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Endpoint(host="127.0.0.1", port=server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_ci18_an_sn_that_is_silent_costs_a_short_wait_once_and_no_more(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_module, "LIMIT_S", 0.05)
    monkeypatch.setattr(names_module, "ASK_S", 0.2)
    connections: list[socket.socket] = []

    async def work(session: Session, _said: Collected) -> None:
        with listening(connections.append) as silent:
            session.contexts.change(
                lambda book: Book(contexts=(replace(book.contexts[0], sn=silent),), current=book.current)
            )
            names = Names(session)
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            assert await names.get("contracts") == ()
            assert loop.time() - began_s < names_module.ASK_S, "it is asked on, but not waited for"
            await asyncio.gather(*names._asking.values())
            for _ in range(50):
                assert await names.get("contracts") == ()
            assert len(connections) == 1, "that there was no answer is kept for a while"
            names.expire()
            assert await names.get("contracts") == ()
            assert len(connections) == 2
            await names.close()
            assert not names._asking

    in_session(swarm, work)
    for connection in connections:
        connection.close()


def test_ci18_names_that_were_known_are_offered_while_an_sn_is_away(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(session: Session, _said: Collected) -> None:
        names = Names(session)
        before = await names.get("contracts")
        assert before
        with socket.create_server(("127.0.0.1", 0)) as server:
            away = Endpoint(host="127.0.0.1", port=server.getsockname()[1])
        session.contexts.change(lambda book: Book(contexts=(replace(book.contexts[0], sn=away),), current=book.current))
        names.expire()
        assert await names.get("contracts") == before
        await names.close()

    in_session(swarm, work)


# --- CI-19: through a pipe ------------------------------------------------------------------------------------------


class Piped:
    """A shell whose keys come from a pipe."""

    def __init__(self, session: Session, keys: PipeInput, config: Path) -> None:
        self.file = io.StringIO()
        screen = Screen(self.file)
        session.output = screen
        self.shell = Shell(COMMANDS, session, screen, config / "history", input=keys, output=DummyOutput())

    @property
    def said(self) -> list[str]:
        return self.file.getvalue().splitlines()


def typed(keys: str, root: Path, *, session: Session | None = None) -> tuple[list[str], ExitCode]:
    """What a shell says to keys, until it ends."""
    used = session or Session(
        contexts=MemoryContexts(), directory=Directory(root), output=Collected(), identity=IdentityPaths()
    )

    async def main() -> tuple[list[str], ExitCode]:
        with create_pipe_input() as pipe:
            piped = Piped(used, pipe, root)
            pipe.send_text(keys)
            # prompt_toolkit waits for a key where something goes wrong within it.
            async with asyncio.timeout(30):
                status = await piped.shell.run()
            return piped.said[2:], status

    return asyncio.run(main())


def test_ci19_commands_are_carried_out_until_exit(tmp_path: Path) -> None:
    said, status = typed("PWD\rcd nowhere\r\rexit\rPWD\r", tmp_path)
    assert said == [f"    Current Directory : {tmp_path}", f"    ERROR nowhere is no directory below {tmp_path}"]
    assert status is ExitCode.OK


def test_ci19_ctrl_d_leaves_and_ctrl_c_drops_what_is_typed(tmp_path: Path) -> None:
    said, status = typed("nonsense\x03PWD\r\x04", tmp_path)
    assert said == [f"    Current Directory : {tmp_path}"]
    assert status is ExitCode.OK


def test_ci19_a_failure_after_exit_on_failure_leaves_with_its_status(tmp_path: Path) -> None:
    said, status = typed("nonsense\rexit on failure\rcd nowhere\rPWD\r", tmp_path)
    assert len(said) == 3
    assert status is ExitCode.CONFIGURATION


def test_ci19_pasted_lines_are_commands_one_after_another(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    pasted = "# first\nCD sub\n\nPWD\n"
    said, status = typed(f"\x1b[200~{pasted}\x1b[201~\rexit\r", tmp_path)
    where = f"    Current Directory : {tmp_path}/sub"
    assert said == [where, "SWCI:2 > PWD", where]
    assert status is ExitCode.OK


def test_ci19_what_is_typed_is_remembered_for_the_user_alone(tmp_path: Path) -> None:
    typed("PWD\rCD 'ü'\rexit\r", tmp_path)
    file = tmp_path / "history"
    assert file.read_text(encoding="utf-8") == "PWD\nCD 'ü'\nexit\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    said, _ = typed("\x1b[A\x1b[A\x1b[A\r\x04", tmp_path)
    assert said == [f"    Current Directory : {tmp_path}"], "the third line before"


def test_ci19_a_history_that_cannot_be_kept_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "history").mkdir()
    said, status = typed("PWD\r\x04", tmp_path)
    assert said == [f"    Current Directory : {tmp_path}"]
    assert status is ExitCode.OK
    below_a_file = LineHistory(tmp_path / "file" / "history")
    (tmp_path / "file").touch()
    below_a_file.store_string("PWD")
    assert list(below_a_file.load_history_strings()) == []


def test_ci19_only_the_newest_of_a_long_history_is_read(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("".join(f"SLEEP {number}\n" for number in range(MAX_HISTORY + 10)))
    found = list(LineHistory(tmp_path / "history").load_history_strings())
    assert len(found) == MAX_HISTORY
    assert found[0] == f"SLEEP {MAX_HISTORY + 9}"
    assert found[-1] == "SLEEP 10"


def test_ci19_ctrl_c_ends_the_command_that_goes_on_and_the_shell_stays(swarm: Swarm, tmp_path: Path) -> None:
    async def work(session: Session, _said: Collected) -> list[str]:
        with create_pipe_input() as pipe:
            piped = Piped(session, pipe, tmp_path)
            told = asyncio.Event()

            class Watched(io.StringIO):
                def write(self, text: str) -> int:
                    if "WAITING FOR" in text:
                        told.set()
                    return super().write(text)

            piped.file = Watched()
            piped.shell._screen = session.output = Screen(piped.file)
            running = asyncio.create_task(piped.shell.run())
            pipe.send_text("EXIT ON FAILURE\rWAIT FOR IP 127.0.0.1 1\r")
            await told.wait()
            os.kill(os.getpid(), signal.SIGINT)
            pipe.send_text("PWD\rexit\r")
            assert await running is ExitCode.OK, "an interruption is nobody's failure"
            return piped.said

    said = in_session(swarm, work)
    assert said[-2:] == [
        "    ERROR interrupted: WAIT FOR IP 127.0.0.1 1",
        f"    Current Directory : {swarm.workdir}",
    ]


# --- CI-19: on a terminal -------------------------------------------------------------------------------------------


ASKS_CURSOR = "\x1b[6n"
"""A program asks a terminal where its cursor is."""


@contextmanager
def terminal(
    swarm: Swarm, config: Path, *arguments: str, columns: int = 100, tells_cursor: bool = False
) -> Iterator["pexpect.spawn[str]"]:
    """A real `swarm ci` on a terminal; by default one that does not tell where its cursor is."""
    child = swarm.spawn(*arguments, config=config, columns=columns, tells_cursor=tells_cursor)
    try:
        yield child
    finally:
        child.close(force=True)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_ci19_the_real_shell_on_a_terminal(swarm: Swarm, tmp_path: Path) -> None:
    where, contract = swarm.sn(), swarm.fresh("on-a-terminal")
    with terminal(swarm, tmp_path, *swarm.options()) as child:
        child.expect_exact("HELP lists the commands")
        child.expect_exact("No context yet: CREATE CONTEXT")
        child.expect_exact("SWCI:1 >")
        child.send(f"create context heart with ip {where.host} {where.port}\r")
        child.expect_exact("    API Server is UP!\r\n")
        child.expect_exact("    CONTEXT CREATED : heart\r\n")
        child.expect_exact("SWCI:2 >")
        child.send(f"CREATE CONTRACT {contract}\r")
        child.expect_exact(f"Contract Created : {contract}")
        child.expect_exact("SWCI:3 >")
        child.send(f"get contract info {contract[:4]}\t")  # the only one that begins so is completed at once
        child.expect_exact(contract[4:])
        child.send("\r")
        child.expect_exact(f"CONTRACT : {contract}")
        child.expect_exact("SWCI:4 >")
        child.send("switch ?")  # this terminal does not tell where its cursor is: it is shown above the prompt
        child.expect_exact("Example: SWITCH CONTEXT heart")
        child.send("context heart\r")
        child.expect_exact("DEFAULT CONTEXT SET TO : heart")
        child.expect_exact("SWCI:5 >")
        child.send("list nods\r")
        child.expect_exact("\x1b[31m    ERROR unknown command 'list nods'; did you mean LIST NODES?")
        child.expect_exact("SWCI:6 >")
        child.send("wait for ip 127.0.0.1 1\r")
        child.expect_exact("not yet, 1 of 360 tries: 127.0.0.1:1: Connection refused")
        child.sendintr()
        child.expect_exact("ERROR interrupted: wait for ip 127.0.0.1 1")
        child.expect_exact("SWCI:7 >")
        child.send("exit\r")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == ExitCode.OK
    history = (tmp_path / "history").read_text().splitlines()
    assert history[0].startswith("create context heart")
    assert history[-1] == "exit"
    # The next shell begins where this one was.
    with terminal(swarm, tmp_path) as child:
        child.expect_exact(f"Context heart: {where}")
        child.expect_exact("SWCI:1 >")
        child.send("list contracts\r")
        child.expect_exact(contract)
        child.expect_exact("SWCI:2 >")
        child.send("\x04")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == ExitCode.OK


@pytest.mark.parametrize("key", ["\x1bOP", "?"], ids=["F1", "?"])
def test_ci18_help_stands_below_the_prompt(swarm: Swarm, tmp_path: Path, key: str) -> None:
    with terminal(swarm, tmp_path, tells_cursor=True) as child:
        child.expect_exact(ASKS_CURSOR)
        child.expect_exact("SWCI:1 >")
        child.send("\x1b[3;1R")
        child.expect_exact("No context yet")
        child.send("switch " + key)
        # Only what changed is drawn; Ctrl-L lets it draw all, which can be read here.
        child.send("\x0c")
        child.expect_exact(ASKS_CURSOR)
        child.send("\x1b[1;1R")
        child.expect_exact(" SWITCH CONTEXT <context>")
        child.expect_exact("   Example: SWITCH CONTEXT heart")
        child.send("\x03\x04")
        child.expect(pexpect.EOF)


@pytest.mark.parametrize("columns", [80, 160])
def test_ci6_on_a_terminal_of_any_width_no_line_of_a_table_is_wider(swarm: Swarm, tmp_path: Path, columns: int) -> None:
    with terminal(swarm, tmp_path, *swarm.options(), "--sn", str(swarm.sn()), columns=columns) as child:
        child.expect_exact("SWCI:1 >")
        child.send("LIST NODES\r")
        child.expect_exact("NodeType")
        child.expect_exact("SWCI:2 >")
        rows = plain("NodeType" + str(child.before)).split("\r\n")
        table = [row for row in rows if "sn@" in row or row.startswith("NodeType")]
        assert len(table) == 3
        assert all(len(row) + 4 <= columns for row in rows[:4])
        child.send("\x04")
        child.expect(pexpect.EOF)
