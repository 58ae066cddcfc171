"""Scripts: real `swarm ci` processes against a running swarm, in each letter case; and whatever a script may hold."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from swci_world import A, B, Swarm, process_environment

from swarmlearning.errors import ExitCode
from swarmlearning.swci.contexts import FileContexts, IdentityPaths, MemoryContexts
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.lexer import MAX_LINE_BYTES
from swarmlearning.swci.reading import RawScriptLine, given_lines, read_lines
from swarmlearning.swci.screen import Screen
from swarmlearning.swci.script import JsonWriter, PlainWriter, TranscriptWriter, Writer, run_script
from swarmlearning.swci.session import Session
from swarmlearning.swci.table import COMMANDS
from swarmlearning.types import Role

ROOT = Path(__file__).parent


async def chunks(*lines: bytes) -> AsyncIterator[RawScriptLine]:
    for line in lines:
        yield RawScriptLine(line, len(line))


def run(*lines: bytes, session: Session | None = None, as_json: bool = False) -> tuple[list[str], ExitCode]:
    """What a script writes that needs no SN, and its status."""
    file = io.StringIO()
    writer: Writer = JsonWriter(file) if as_json else TranscriptWriter(Screen(file))
    used = session or Session(
        contexts=MemoryContexts(), directory=Directory(ROOT), output=writer, identity=IdentityPaths()
    )
    used.output = writer
    status = asyncio.run(run_script(COMMANDS, used, chunks(*lines), writer))
    return file.getvalue().splitlines(), status


# --- CI-14: reading -------------------------------------------------------------------------------------------------


def read_all(descriptor: int) -> list[RawScriptLine]:
    async def main() -> list[RawScriptLine]:
        return [line async for line in read_lines(descriptor)]

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"LS\nPWD\n", [b"LS", b"PWD"]),
        (b"LS\r\n\r\nPWD", [b"LS\r", b"\r", b"PWD"]),
        (b"\xef\xbb\xbfLS\nPWD", [b"LS", b"PWD"]),
        (b"LS\n\xef\xbb\xbfPWD\n", [b"LS", b"\xef\xbb\xbfPWD"]),
        (b"\n\n", [b"", b""]),
    ],
)
def test_ci14_lines_are_read_from_a_file(tmp_path: Path, data: bytes, expected: list[bytes]) -> None:
    (tmp_path / "script").write_bytes(data)
    with (tmp_path / "script").open("rb") as file:
        assert [line.data for line in read_all(file.fileno())] == expected


def test_ci14_a_line_of_a_megabyte_is_counted_and_not_held(tmp_path: Path) -> None:
    (tmp_path / "script").write_bytes(b"LS\n" + b"x" * (1 << 20) + b"\nPWD")
    with (tmp_path / "script").open("rb") as file:
        first, long, last = read_all(file.fileno())
    assert (first.data, last.data) == (b"LS", b"PWD")
    assert long.size == 1 << 20
    assert len(long.data) == MAX_LINE_BYTES + 1


def test_ci14_a_pipe_is_read_as_it_comes_and_the_loop_goes_on() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        try:
            lines = read_lines(reading)
            os.write(writing, b"LS\nP")
            assert (await anext(lines)).data == b"LS"
            waiting = asyncio.ensure_future(anext(lines))
            await asyncio.sleep(0)
            assert not waiting.done()
            os.write(writing, b"WD\n")
            assert (await waiting).data == b"PWD"
            cancelled = asyncio.ensure_future(anext(lines))
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        finally:
            os.close(reading)
            os.close(writing)

    asyncio.run(main())


def test_ci14_blank_lines_and_comments_do_nothing_and_count() -> None:
    said, status = run(b"# a comment", b"", b"  \t", b"PWD # where", b"   # another")
    assert said == ["SWCI:4 > PWD # where", f"    Current Directory : {ROOT}"]
    assert status is ExitCode.OK


def test_ci14_lines_that_are_given_may_hold_several() -> None:
    async def main() -> list[bytes]:
        return [line.data async for line in given_lines(["LS\nPWD", "", "EXIT"])]

    assert asyncio.run(main()) == [b"LS", b"PWD", b"EXIT"]


# --- CI-15, CI-16, CI-17 --------------------------------------------------------------------------------------------


def test_ci15_a_transcript_has_each_command_and_below_it_what_it_says() -> None:
    said, status = run(b"EXIT ON FAILURE OFF", b"cd nowhere", b"sleep 0", b"HELP PWD")
    assert said == [
        "SWCI:1 > EXIT ON FAILURE OFF",
        "    EXIT ON FAILURE IS TURNED OFF",
        "SWCI:2 > cd nowhere",
        f"    ERROR nowhere is no directory below {ROOT}",
        "SWCI:3 > sleep 0",
        "SWCI:4 > HELP PWD",
        "    PWD",
        "        Tell the current directory.",
        "        Example: PWD",
    ]
    assert status is ExitCode.FAILED


def test_ci15_single_commands_write_what_they_say_and_errors_apart() -> None:
    out, errors = io.StringIO(), io.StringIO()
    writer = PlainWriter(Screen(out, indent=""), Screen(errors, indent=""))
    session = Session(contexts=MemoryContexts(), directory=Directory(ROOT), output=writer, identity=IdentityPaths())
    asyncio.run(run_script(COMMANDS, session, chunks(b"PWD", b"CD nowhere"), writer))
    assert out.getvalue() == f"Current Directory : {ROOT}\n"
    assert errors.getvalue() == f"ERROR nowhere is no directory below {ROOT}\n"


@pytest.mark.parametrize("switch", [b"EXIT ON FAILURE", b"exit on failure on"])
def test_ci16_the_first_failure_ends_a_script_that_says_so(switch: bytes) -> None:
    said, status = run(b"nonsense", switch, b"LIST NODES", b"PWD")
    assert said[0] == "SWCI:1 > nonsense"
    assert said[-2:] == [
        "SWCI:3 > LIST NODES",
        (
            "    ERROR no context is chosen: CREATE CONTEXT <context> WITH IP <ip>, SWITCH CONTEXT, or start with --sn "
            "HOST:PORT; there are: none"
        ),
    ]
    assert status is ExitCode.CONFIGURATION


def test_ci16_turned_off_again_a_failure_ends_nothing_but_counts() -> None:
    said, status = run(b"EXIT ON FAILURE", b"EXIT ON FAILURE OFF", b"nonsense", b"PWD")
    assert said[-2] == "SWCI:4 > PWD"
    assert status is ExitCode.FAILED


@pytest.mark.parametrize(("before", "status"), [(b"PWD", ExitCode.OK), (b"nonsense", ExitCode.FAILED)])
def test_ci16_exit_ends_a_script_with_what_there_was_so_far(before: bytes, status: ExitCode) -> None:
    said, found = run(before, b"EXIT", b"PWD")
    assert said[-1] == "SWCI:2 > EXIT"
    assert found is status


def test_ci17_each_command_is_a_json_document_in_one_line() -> None:
    said, status = run(b"# comment", b"pwd", b"sleep 0", b"nonsense", b"\xff", as_json=True)
    assert [json.loads(line) for line in said] == [
        {"line": 2, "command": "pwd", "answer": str(ROOT)},
        {"line": 3, "command": "sleep 0", "answer": None},
        {"line": 4, "command": "nonsense", "error": "unknown command 'nonsense'; HELP lists all", "status": 2},
        {
            "line": 5,
            "command": "\N{REPLACEMENT CHARACTER}",
            "error": "byte 1 of the line is no UTF-8; expected text in UTF-8",
            "status": 2,
        },
    ]
    assert status is ExitCode.FAILED


def test_help_lists_every_command_by_topic_and_tells_all_about_those_asked_for() -> None:
    said, _ = run(b"HELP")
    for entry in COMMANDS:
        assert f"        {entry.usage}" in said
    assert said.index("    Contexts") < said.index("        LIST CONTEXTS") < said.index("    Session")
    said, _ = run(b"help create context")
    assert [line for line in said if line.startswith("    C")] == [
        "    CREATE CONTEXT <context> WITH IP <ip> [<port>]",
        "    CREATE CONTEXT <context> WITH SERVICE <service>",
    ]
    assert "        Example: CREATE CONTEXT heart WITH IP 10.0.0.1 30304" in said
    said, _ = run(b"HELP RESET CONTRACT heart")
    assert said[-1] == "        Signs a transaction: the role operator is needed."
    said, _ = run(b"HELP WTIH")
    assert said[1].startswith("    ERROR unknown command 'WTIH'")


# --- processes ------------------------------------------------------------------------------------------------------

SCRIPT = """
# As scripts for the product we re-create are.
Exit On Failure
Wait For Ip {host} {port} 3
Create Context testContext With Ip {host} {port}
Switch Context testContext
Get Context Version
List Contexts
Cd taskdefs
Pwd
Ls
Create Contract {contract}
List Contracts
Get Contract Info {contract}
Get Contract Status {contract}
Reset Contract {contract}
List Nodes
Sleep 0
Exit
No Such Command
"""

KEPT = ("testContext", "taskdefs", "{contract}", "{host}", "{port}")
"""Names are as they are written."""


def in_case(case: str, host: str, port: int, contract: str) -> str:
    def convert(word: str) -> str:
        return word if word in KEPT else {"upper": word.upper(), "lower": word.lower(), "mixed": word}[case]

    lines = [" ".join(convert(word) for word in line.split(" ")) for line in SCRIPT.splitlines()]
    return "\n".join(lines).format(host=host, port=port, contract=contract)


@pytest.mark.parametrize("case", ["upper", "lower", "mixed"])
def test_ci14_a_script_of_any_letter_case_steers_a_running_swarm(swarm: Swarm, tmp_path: Path, case: str) -> None:
    (tmp_path / "usr" / "taskdefs").mkdir(parents=True)
    (tmp_path / "usr" / "taskdefs" / "build.yaml").write_text("")
    where, contract = swarm.sn(), swarm.fresh("heart")
    (tmp_path / "usr" / "swci-init").write_text(in_case(case, where.host, where.port, contract))
    arguments = ["--script", "swci-init", "--usr-dir", str(tmp_path / "usr"), *swarm.options()]
    done = swarm.ci(*arguments, config=tmp_path / "config", cwd=tmp_path)
    assert done.returncode == ExitCode.OK, (done.stdout, done.stderr)
    said = done.stdout.decode().splitlines()
    outputs = [line.removeprefix("    ") for line in said if not line.startswith("SWCI:")]
    assert outputs[0] == "EXIT ON FAILURE IS TURNED ON"
    assert outputs.count("API Server is UP!") == 2
    for expected in (
        "CONTEXT CREATED : testContext",
        "DEFAULT CONTEXT SET TO : testContext",
        "testContext",
        f"Current Directory : {tmp_path}/usr/taskdefs",
        "build.yaml",
        f"Contract Created : {contract}",
        contract,
        "NodeType,HostIP,Port,ContainerName,UUID,ParentUUID,i-am-alive",
    ):
        assert expected in outputs, said
    assert said[-1].lower() == "swci:19 > exit"
    (kept,) = FileContexts(tmp_path / "config" / "contexts.json").load().contexts
    assert kept.identity == swarm.identity(), "it is kept as whom one spoke"


def test_ci9_a_context_that_is_kept_needs_no_options_in_the_next_session(swarm: Swarm, tmp_path: Path) -> None:
    where = swarm.sn()
    config = tmp_path / "config"
    commands = [f"CREATE CONTEXT heart WITH IP {where.host} {where.port}", "LIST CONTRACTS"]
    first = swarm.ci(*swarm.options(), "-c", commands[0], "-c", commands[1], config=config)
    assert first.returncode == ExitCode.OK, first.stderr
    second = swarm.ci("-c", "GET CONTEXT INFO", "-c", "LIST CONTRACTS", config=config)
    assert second.returncode == ExitCode.OK, second.stderr
    assert b"IDENTITY : spiffe://a.example/local/operator/ci-operator" in second.stdout
    third = swarm.ci("--context", "lung", "-c", "LIST CONTRACTS", config=config)
    assert third.returncode == ExitCode.CONFIGURATION
    assert third.stderr == b"swarm: error: there is no context lung; there are: heart\n"


def test_an_sn_that_is_given_is_a_context_of_that_session_alone(swarm: Swarm, tmp_path: Path) -> None:
    config = tmp_path / "config"
    done = swarm.ci(
        *swarm.options(domain=B), "--sn", str(swarm.sn(B)), "--json", "-c", "get context info", config=config
    )
    (document,) = (json.loads(line) for line in done.stdout.splitlines())
    assert document["line"] == 1
    assert document["answer"]["address"] == str(swarm.sn(B))
    assert document["answer"]["node"] == "spiffe://b.example/local/operator/ci-operator"
    assert done.returncode == ExitCode.OK
    assert not config.exists()


BAD = [
    b"LIST NODS",
    b"CREATE CONTEXT heart",
    b"GET CONTRACT INFO",
    b"x" * (1 << 20),
    b"LS \x1b[31mred",
    b"LS \xff\xfe",
    b"CD 'taskdefs",
    b'CREATE CONTRACT "',
    b"CREATE CONTEXT heart WITH IP 127.0.0.1 1",
]
"""The issue's bad input but for the role: each is one error line."""

SAID = [
    "unknown command 'LIST NODS'; did you mean LIST NODES?",
    "expected WITH, the line ends; usage: CREATE CONTEXT <context> WITH IP <ip> [<port>] | ",
    "expected <contract>, the line ends; usage: GET CONTRACT INFO <contract>",
    "a line of 1048576 bytes; expected at most 16384",
    "character 4 is the control character U+001B; expected text",
    "byte 4 of the line is no UTF-8; expected text in UTF-8",
    "the quote ' at character 4 is not closed; close it or leave it out",
    'the quote " at character 17 is not closed; close it or leave it out',
    "SN 127.0.0.1:1 does not answer: tried a TLS handshake for 0.",
]


def test_ci1_bad_input_is_one_error_line_each_and_the_script_goes_on(swarm: Swarm, tmp_path: Path) -> None:
    script = b"\n".join([*BAD, b"PWD", b""])
    done = swarm.ci(*swarm.options(), "--sn", str(swarm.sn()), config=tmp_path / "config", stdin=script)
    assert done.stderr == b""
    said = done.stdout.decode().splitlines()
    assert len(said) == 2 * (len(BAD) + 1)
    for number, expected in enumerate(SAID):
        assert said[2 * number].startswith(f"SWCI:{number + 1} > ")
        assert len(said[2 * number]) < 250
        assert said[2 * number + 1].startswith(f"    ERROR {expected}"), said[2 * number + 1]
    assert said[-1] == f"    Current Directory : {swarm.workdir}"
    assert done.returncode == ExitCode.FAILED


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.SL, Role.SWOP])
def test_another_role_is_told_which_role_is_needed(swarm: Swarm, tmp_path: Path, role: Role) -> None:
    arguments = [*swarm.options(role), "--sn", str(swarm.sn()), "-c", f"CREATE CONTRACT {swarm.fresh('heart')}"]
    done = swarm.ci(*arguments, config=tmp_path / "config")
    assert done.returncode == ExitCode.CONFIGURATION
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"ERROR ci-{role.value}@a.example has the role {role.value}; this needs the role operator")
    assert done.stdout == b""


def test_without_an_identity_it_is_said_which_options_are_missing(swarm: Swarm, tmp_path: Path) -> None:
    done = swarm.ci("--sn", str(swarm.sn()), "-c", "LIST NODES", config=tmp_path / "config")
    assert done.returncode == ExitCode.CONFIGURATION
    assert done.stderr.startswith(b"ERROR own identity: --cert (SWARM_ID_CERT), --key (SWARM_ID_KEY), --cacert")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--script", "nowhere"], "script nowhere cannot be read: No such file or directory; check --script"),
        (["--script", "."], "script . cannot be read: Is a directory; check --script"),
        (["--script", "a", "-c", "LS"], "--script and --command: give one of them"),
        (["--sn", "a:1", "--context", "b"], "--sn and --context: give one of them; --sn is a context of its own"),
        (["--sn", "a:b"], "address 'a:b': expected host:port with a port of 1-65535, got port 'b'"),
        (["--usr-dir", "nowhere"], "nowhere is no directory; make it, or name another one"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_done(
    swarm: Swarm, tmp_path: Path, arguments: Sequence[str], said: str
) -> None:
    done = swarm.ci(*arguments, config=tmp_path / "config", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (ExitCode.CONFIGURATION, b"")
    assert done.stderr.decode() == f"swarm: error: {said}\n"


def test_the_products_variables_name_script_and_directory(
    swarm: Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "swci-init").write_text("pwd\ncd /platform/swarm/usr\nls\ncd ..")
    environment = process_environment(tmp_path / "config")
    done = subprocess.run(
        [sys.executable, "-m", "swarmlearning", "ci"],
        env=environment | {"SWCI_STARTUP_SCRIPT": "swci-init", "USR_DIR": str(tmp_path / "usr"), "SWCI_MODE": "cli"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [line for line in done.stdout.splitlines() if not line.startswith("SWCI:")]
    here = f"    Current Directory : {tmp_path}/usr"
    assert said == [here, here, "    swci-init", f"    ERROR .. lies outside {tmp_path}/usr; files stay below it"]
    assert done.returncode == ExitCode.FAILED


def test_ci14_a_reader_that_has_seen_enough_is_no_fault_of_the_script(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("PWD\n" * 3000)
    with subprocess.Popen(
        [sys.executable, "-m", "swarmlearning", "ci", "--script", str(tmp_path / "script")],
        env=process_environment(tmp_path / "config"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "SWCI:1 > PWD\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) != 0


@contextmanager
def going(swarm: Swarm, tmp_path: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A `swarm ci` whose stdin stays open."""
    process = subprocess.Popen(
        [sys.executable, "-m", "swarmlearning", "ci", *swarm.options(), *arguments],
        env=process_environment(tmp_path / "config"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_ci16_ctrl_c_ends_the_command_that_goes_on_and_the_script(swarm: Swarm, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("WAIT FOR IP 127.0.0.1 1\nPWD\n")
    with going(swarm, tmp_path, "--script", str(tmp_path / "script")) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        assert said[1] == "    WAITING FOR API SERVER 127.0.0.1:1 - Maximum wait time is : 30 min\n"
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    assert out == "    ERROR interrupted: WAIT FOR IP 127.0.0.1 1\n"
    assert not errors.strip(), "no trace"
    assert process.returncode == ExitCode.INTERRUPTED


def test_ci16_ctrl_c_ends_a_script_that_waits_for_its_next_line(swarm: Swarm, tmp_path: Path) -> None:
    with going(swarm, tmp_path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("PWD\n")
        process.stdin.flush()
        assert process.stdout.readline() == "SWCI:1 > PWD\n", "a pipe is read as it comes"
        assert "Current Directory" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == ExitCode.INTERRUPTED


def test_ci16_the_first_of_single_commands_that_fails_ends_them(swarm: Swarm, tmp_path: Path) -> None:
    commands = ["-c", "PWD", "-c", "WAIT FOR IP 127.0.0.1 1 0", "-c", "LS"]
    done = swarm.ci(*swarm.options(), *commands, config=tmp_path / "config", cwd=tmp_path)
    assert done.stdout == f"Current Directory : {tmp_path}\n".encode()
    assert done.stderr == b"ERROR 0 retries; expected 1-1000000\n"
    assert done.returncode == ExitCode.CONFIGURATION


def test_what_an_encoding_lacks_is_replaced(swarm: Swarm, tmp_path: Path) -> None:
    (tmp_path / "心臓").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "swarmlearning", "ci", "--usr-dir", str(tmp_path), "-c", "LS"],
        env=process_environment(tmp_path / "config") | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == b"??/\n"
    assert done.returncode == ExitCode.OK


def test_ci17_what_a_command_says_meanwhile_is_a_document_before_its_answer(swarm: Swarm, tmp_path: Path) -> None:
    done = swarm.ci(*swarm.options(), "--json", "-c", f"WAIT FOR SERVICE {swarm.sn()}", config=tmp_path / "config")
    meanwhile, answer = (json.loads(line) for line in done.stdout.splitlines())
    assert meanwhile == {
        "line": 1,
        "said": f"WAITING FOR API SERVER {swarm.sn()} - Maximum wait time is : 30 min",
    }
    assert answer["answer"]["sn"] == f"spiffe://{A}/local/sn/sn"
    assert answer["answer"]["tries"] == 1
