"""`swarm ci`: the command interface as a shell, a script or a single line."""

import asyncio
import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from swarmlearning.cli import examples
from swarmlearning.cli.asking import sign_key_option
from swarmlearning.cli.ci_web import serve_web, take_web_options, web_options
from swarmlearning.errors import ConfigurationError, ExitCode
from swarmlearning.identity.options import path_options
from swarmlearning.swci.contexts import (
    Context,
    Contexts,
    FileContexts,
    IdentityPaths,
    OwnContext,
    config_directory,
    contexts_file,
    find_context,
)
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.reading import given_lines, read_lines
from swarmlearning.swci.screen import Screen
from swarmlearning.swci.script import JsonWriter, PlainWriter, TranscriptWriter, Writer, run_script
from swarmlearning.swci.session import Output, Session
from swarmlearning.swci.table import COMMANDS
from swarmlearning.swci.values import ContextName
from swarmlearning.types import SN_API_PORT, Endpoint

OWN_CONTEXT: Final = ContextName("this-session")
"""What the context of `--sn` is called."""

STDIN: Final = "-"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `swarm ci` was called with."""

    cert: str | None
    key: str | None
    cacert: str | None
    capath: str | None
    sign_key: str | None
    sn: str | None
    context: str | None
    usr_dir: str | None
    script: str | None
    commands: tuple[str, ...]
    as_json: bool
    insists: bool = False
    """The identity was given with this very command, and not by the environment."""


@click.command(
    epilog=examples(
        "swarm ci --cert operator.cert.pem --key operator.key.pem --cacert a.ca.pem --sn 10.0.0.1:30304",
        "swarm ci --script swci-init --usr-dir swci",
        'swarm ci --json --command "LIST NODES"',
        "swarm ci --web --host-ip 10.0.0.5 --sn 10.0.0.1:30304 --usr-dir swci",
    )
)
@path_options
@sign_key_option
@click.option(
    "--sn",
    envvar="SWARM_SN",
    show_envvar=True,
    metavar="HOST:PORT",
    help="Own SN's API, as a context of this session alone; default: the context that is kept.",
)
@click.option("--context", metavar="NAME", help="Begin in this context instead of the default one.")
@click.option(
    "--usr-dir",
    envvar="USR_DIR",
    show_envvar=True,
    metavar="DIR",
    help="Begin here, and keep files below it; default: the current directory, and anywhere.",
)
@click.option(
    "--script",
    envvar="SWCI_STARTUP_SCRIPT",
    show_envvar=True,
    metavar="FILE",
    help="Run the commands of a file, or with - those of stdin, and end.",
)
@click.option(
    "-c",
    "--command",
    "commands",
    multiple=True,
    metavar="COMMAND",
    help="Run this command and end; more than one: until one fails.",
)
@click.option("--json", "as_json", is_flag=True, help="Answers as JSON; of a script a document a line.")
@web_options
@click.pass_context
def ci(called: click.Context, /, **given: Any) -> ExitCode:  # noqa: ANN401  # click's options, read into `Options`
    """Steer the network by commands: in a shell, by a script, by single commands, or by what comes on stdin.

    HELP lists all commands, docs/reference/swci.md has them with examples. Contexts say which network commands are
    about, and as whom; they are kept from one session to the next. The identity options and --sn are not needed where
    the context has them. Identity options count before what a context has, and that before SWARM_ID_*.

    The exit status is 0 only if no command failed.
    """
    explicit = click.core.ParameterSource.COMMANDLINE
    asked = {name for name in given if called.get_parameter_source(name) is explicit}
    web = take_web_options(given)
    options = Options(**given, insists="cert" in asked)
    if {"sn", "context"} <= asked:
        raise ConfigurationError("--sn and --context: give one of them; --sn is a context of its own")
    if {"script", "commands"} <= asked:
        raise ConfigurationError("--script and --command: give one of them")
    if web.web:
        if others := {"script", "commands", "context", "as_json"} & asked:
            raise ConfigurationError(f"--web serves programs: leave out {', '.join(sorted(others))}")
        serve_web(web, _identity(options), options.sn, options.usr_dir)
        return ExitCode.OK
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that this terminal's encoding lacks is no reason to fail.
        sys.stdout.reconfigure(errors="replace")
    return asyncio.run(_run(options))


async def _run(options: Options) -> ExitCode:
    if options.commands or options.script or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return await _run_lines(options)
    # Not for scripts: it takes a moment to import.
    from swarmlearning.swci.shell import Shell

    screen = Screen(sys.stdout)
    session = make_session(options, screen)
    try:
        return await Shell(COMMANDS, session, screen, config_directory() / "history").run()
    finally:
        await session.disconnect()


async def _run_lines(options: Options) -> ExitCode:
    writer = _writer(options)
    session = make_session(options, writer)
    session.exit_on_failure = bool(options.commands)
    try:
        if options.commands:
            return await run_script(COMMANDS, session, given_lines(options.commands), writer)
        with _opened(options) as descriptor:
            return await run_script(COMMANDS, session, read_lines(descriptor), writer)
    finally:
        await session.disconnect()


def make_session(options: Options, output: Output) -> Session:
    """The session that the options describe.

    Raises:
        ConfigurationError: there is no such context or directory, or the address is malformed.
    """
    identity = _identity(options)
    contexts: Contexts = FileContexts(contexts_file())
    current = ContextName(options.context) if options.context else None
    if current is not None:
        find_context(contexts.load(), current)
    elif options.sn:
        own = Context(name=OWN_CONTEXT, sn=Endpoint.parse(options.sn, SN_API_PORT))
        contexts = OwnContext(contexts, own)
    directory = Directory(Path(options.usr_dir)) if options.usr_dir else Directory(Path("/"), Path.cwd())
    session = Session(
        contexts=contexts,
        directory=directory,
        output=output,
        identity=identity,
        keeps_identity=True,
        insists=options.insists,
        current=current,
    )
    session.as_json = options.as_json
    return session


def _identity(options: Options) -> IdentityPaths:
    paths = (options.cert, options.key, options.cacert, options.capath, options.sign_key)
    # Absolute: what a context keeps is read from elsewhere later.
    cert, key, cacert, capath, sign_key = (str(Path(path).absolute()) if path else "" for path in paths)
    return IdentityPaths(cert=cert, key=key, cacert=cacert, capath=capath, sign_key=sign_key)


def _writer(options: Options) -> Writer:
    if options.as_json:
        return JsonWriter(sys.stdout)
    if options.commands:
        return PlainWriter(Screen(sys.stdout, indent=""), Screen(sys.stderr, indent=""))
    return TranscriptWriter(Screen(sys.stdout))


@contextlib.contextmanager
def _opened(options: Options) -> Iterator[int]:
    """The script's file descriptor."""
    if options.script is None or options.script == STDIN:
        yield sys.stdin.fileno()
        return
    path = Path(options.script)
    if options.usr_dir and not path.exists():
        path = Path(options.usr_dir) / path
    try:
        with path.open("rb", buffering=0) as file:
            yield file.fileno()
    except BrokenPipeError:
        raise  # of what is written: whoever read it has seen enough
    except OSError as error:
        raise ConfigurationError(f"script {options.script} cannot be read: {error.strerror}; check --script") from error
