"""CREATE, SWITCH, LIST and DELETE CONTEXT, what there is to know of one, its variables; WAIT FOR an SN."""

from typing import Final

import msgspec

from swarmlearning import __version__
from swarmlearning.clock import system_clock
from swarmlearning.errors import IdentityError, NotFound
from swarmlearning.reports.status import make_printable
from swarmlearning.swci.contexts import Book, Context, IdentityPaths, find_context, put_context, set_variable
from swarmlearning.swci.entries import Entry, Route, Shown, make_entry
from swarmlearning.swci.limits import check_limit
from swarmlearning.swci.reaching import TRIES, Reached, at_host, at_service, wait_for_sn
from swarmlearning.swci.session import Session, reach
from swarmlearning.swci.values import Command, ContextName, VariableName
from swarmlearning.types import Endpoint, NodeId

API_IS_UP: Final = "API Server is UP!"
"""As the product we re-create says it; scripts look for it."""


class CreateContext(Command, frozen=True, kw_only=True):
    """`CREATE CONTEXT … WITH IP`."""

    context: ContextName
    ip: str
    port: int | None = None


class CreateContextWithService(Command, frozen=True, kw_only=True):
    """`CREATE CONTEXT … WITH SERVICE`."""

    context: ContextName
    service: str


class SwitchContext(Command, frozen=True, kw_only=True):
    """`SWITCH CONTEXT`."""

    context: ContextName


class DeleteContext(Command, frozen=True, kw_only=True):
    """`DELETE CONTEXT`."""

    context: ContextName


class GetContextInfo(Command, frozen=True, kw_only=True):
    """`GET CONTEXT INFO`."""

    context: ContextName | None = None


class GetContextVersion(Command, frozen=True, kw_only=True):
    """`GET CONTEXT VERSION`."""


class ListContexts(Command, frozen=True, kw_only=True):
    """`LIST CONTEXTS`."""


class GetContextVariable(Command, frozen=True, kw_only=True):
    """`GET CONTEXT ENV`."""

    context: ContextName | None = None
    variable: VariableName


class SetContextVariable(Command, frozen=True, kw_only=True):
    """`SET CONTEXT ENV`."""

    context: ContextName | None = None
    variable: VariableName
    value: str


class ListContextVariables(Command, frozen=True, kw_only=True):
    """`LIST CONTEXT ENV`."""

    context: ContextName | None = None


class WaitForHost(Command, frozen=True, kw_only=True):
    """`WAIT FOR IP`."""

    ip: str
    port: int | None = None
    retries: int = TRIES


class WaitForService(Command, frozen=True, kw_only=True):
    """`WAIT FOR SERVICE`."""

    service: str
    retries: int = TRIES


class ContextCreated(msgspec.Struct, frozen=True, kw_only=True):
    """A context whose SN answered."""

    context: ContextName
    address: str
    sn: NodeId
    node: NodeId
    """As whom one speaks there."""
    version: str
    """The SN's release."""
    problem: str
    """What keeps the SN from following the ledger; empty while nothing does."""
    is_default: bool


class ContextInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A context."""

    context: ContextName
    address: str
    is_default: bool
    node: str
    """As whom one speaks there; empty where that cannot be told."""
    problem: str
    """Why it cannot."""
    certificate: str
    """Its file; empty where the session's own is used."""
    variables: int


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """Releases on both sides."""

    context: ContextName
    sn: str
    ours: str


class ContextVariable(msgspec.Struct, frozen=True, kw_only=True):
    """A variable of a context."""

    context: ContextName
    variable: VariableName
    value: str


async def create_context(session: Session, command: CreateContext) -> ContextCreated:
    """Make a context, in place of one of its name, after its SN has answered.

    Raises:
        InvalidName: the address is malformed.
        IdentityError: our own identity is missing, expired or does not match.
        Unreachable: nobody shakes hands there; the message says where and how long it was tried.
        VerificationError: who does is no node of our organisation.
        ConfigurationError: it cannot be kept.
    """
    return await _create(session, command.context, at_host(command.ip, command.port))


async def create_context_with_service(session: Session, command: CreateContextWithService) -> ContextCreated:
    """The same, of an SN that is known by a name.

    Raises:
        SwarmError: see `create_context`.
    """
    return await _create(session, command.context, at_service(command.service))


async def _create(session: Session, name: ContextName, endpoint: Endpoint) -> ContextCreated:
    paths = session.identity_for(endpoint, name)
    async with reach(paths.source(), endpoint) as client:
        status = await client.status()
    kept = paths if session.keeps_identity else IdentityPaths()

    def put(book: Book) -> Book:
        variables = next((known.variables for known in book.contexts if known.name == name), {})
        return put_context(book, Context(name=name, sn=endpoint, identity=kept, variables=variables))

    session.contexts.change(put)
    if not session.book.current:
        session.choose(name)
    return ContextCreated(
        context=name,
        address=str(endpoint),
        sn=status.node,
        node=paths.source().load(system_clock()).node.id,
        version=make_printable(status.version),
        problem=make_printable(status.problem),
        is_default=session.book.current == name,
    )


def _show_created(made: ContextCreated) -> Shown:
    troubled = (f"WARNING - it does not follow the ledger: {made.problem}",) if made.problem else ()
    return Shown((API_IS_UP, *troubled, f"IDENTITY : {made.node}", f"CONTEXT CREATED : {made.context}"), folds=True)


async def switch_context(session: Session, command: SwitchContext) -> ContextName:
    """Let commands be about another context.

    Raises:
        ConfigurationError: there is none of that name, or it cannot be kept.
    """
    session.choose(command.context)
    return command.context


async def delete_context(session: Session, command: DeleteContext) -> ContextName:
    """Drop a context; the network itself does not notice.

    Raises:
        ConfigurationError: there is none of that name, or it cannot be dropped.
    """
    session.forget(command.context)
    return command.context


async def get_context_info(session: Session, command: GetContextInfo) -> ContextInfo:
    """What a context is.

    Raises:
        ConfigurationError: there is none.
    """
    book = session.book
    return _describe(session, find_context(book, command.context), book.current)


async def list_contexts(session: Session, _command: ListContexts) -> tuple[ContextInfo, ...]:
    """All contexts.

    Raises:
        ConfigurationError: they cannot be read.
    """
    book = session.book
    return tuple(_describe(session, context, book.current) for context in book.contexts)


def _describe(session: Session, context: Context, current: ContextName) -> ContextInfo:
    node = problem = ""
    try:
        node = session.source_of(context).load(system_clock()).node.id
    except IdentityError as error:
        problem = make_printable(str(error))
    return ContextInfo(
        context=context.name,
        address=str(context.sn),
        is_default=context.name == current,
        node=node,
        problem=problem,
        certificate=context.identity.cert,
        variables=len(context.variables),
    )


def _show_info(info: ContextInfo) -> Shown:
    lines = [
        f"CONTEXT : {info.context}",
        f"API SERVER : {info.address}",
        f"DEFAULT : {'yes' if info.is_default else 'no'}",
        f"IDENTITY : {info.node or info.problem}",
    ]
    if info.certificate:
        lines.append(f"CERTIFICATE : {info.certificate}")
    return Shown((*lines, f"VARIABLES : {info.variables}"), folds=True)


def _show_names(infos: tuple[ContextInfo, ...]) -> Shown:
    return Shown(tuple(info.context for info in infos))


async def get_context_version(session: Session, _command: GetContextVersion) -> Versions:
    """Releases of the current context's SN, and of this command interface.

    Raises:
        SwarmError: see `Session.sn`.
    """
    status = await (await session.sn()).status()
    return Versions(context=session.context.name, sn=make_printable(status.version), ours=__version__)


def _show_versions(versions: Versions) -> Shown:
    return Shown((f"API SERVER VERSION : {versions.sn}", f"SWCI VERSION : {versions.ours}"))


async def get_context_variable(session: Session, command: GetContextVariable) -> ContextVariable:
    """A variable of a context; those of the environment are not looked at.

    Raises:
        NotFound: there is no such context, or no variable of that name.
    """
    context = find_context(session.book, command.context)
    if command.variable not in context.variables:
        known = ", ".join(context.variables) or "none"
        raise NotFound(f"context {context.name} has no variable {command.variable}; there are: {known}")
    value = context.variables[command.variable]
    return ContextVariable(context=context.name, variable=command.variable, value=value)


async def set_context_variable(session: Session, command: SetContextVariable) -> ContextVariable:
    """Set a variable of a context.

    Raises:
        ConfigurationError: there is no such context, it has too many variables, or cannot be kept.
    """
    name = find_context(session.book, command.context).name
    check_limit(command.variable, command.value)
    session.contexts.change(
        lambda book: put_context(book, set_variable(find_context(book, name), command.variable, command.value))
    )
    return ContextVariable(context=name, variable=command.variable, value=command.value)


async def list_context_variables(session: Session, command: ListContextVariables) -> tuple[ContextVariable, ...]:
    """All variables of a context.

    Raises:
        ConfigurationError: there is no such context.
    """
    context = find_context(session.book, command.context)
    return tuple(
        ContextVariable(context=context.name, variable=VariableName(name), value=value)
        for name, value in context.variables.items()
    )


def _show_variable(variable: ContextVariable) -> Shown:
    return Shown((f"{variable.variable}={variable.value}",))


def _show_variables(variables: tuple[ContextVariable, ...]) -> Shown:
    return Shown(tuple(line for variable in variables for line in _show_variable(variable).lines))


async def wait_for_host(session: Session, command: WaitForHost) -> Reached:
    """Wait until an SN is up.

    Raises:
        WaitExpired: it did not come up.
        SwarmError: what waiting cannot help: see `wait_for_sn`.
    """
    return await _wait(session, at_host(command.ip, command.port), command.retries)


async def wait_for_service(session: Session, command: WaitForService) -> Reached:
    """Wait until an SN that is known by a name is up.

    Raises:
        WaitExpired: it did not come up.
        SwarmError: what waiting cannot help: see `wait_for_sn`.
    """
    return await _wait(session, at_service(command.service), command.retries)


async def _wait(session: Session, endpoint: Endpoint, retries: int) -> Reached:
    return await wait_for_sn(session.identity_for(endpoint).source(), endpoint, retries, session.tell)


def _show_reached(reached: Reached) -> Shown:
    troubled = (f"WARNING - it does not follow the ledger: {reached.problem}",) if reached.problem else ()
    return Shown((API_IS_UP, *troubled), folds=True)


COMMANDS: Final[tuple[Entry, ...]] = (
    make_entry(
        "CREATE CONTEXT <context> WITH IP <ip> [<port>]",
        CreateContext,
        create_context,
        _show_created,
        topic="Contexts",
        help="Name a network by the address of our SN in it, which has to answer; one of that name is replaced.",
        example="CREATE CONTEXT heart WITH IP 10.0.0.1 30304",
        route=Route("PUT", "/contexts/{context}/ip"),
    ),
    make_entry(
        "CREATE CONTEXT <context> WITH SERVICE <service>",
        CreateContextWithService,
        create_context_with_service,
        _show_created,
        topic="Contexts",
        help="Name a network by a name of our SN's, such as that of a reverse proxy before it, with or without a port.",
        example="CREATE CONTEXT heart WITH SERVICE api.sn.hospital-a.example:443",
        route=Route("PUT", "/contexts/{context}/service"),
    ),
    make_entry(
        "SWITCH CONTEXT <context>",
        SwitchContext,
        switch_context,
        lambda name: Shown((f"DEFAULT CONTEXT SET TO : {name}",)),
        topic="Contexts",
        help="Let commands be about another network, here and in sessions that begin later.",
        example="SWITCH CONTEXT heart",
        route=Route("PUT", "/context"),
    ),
    make_entry(
        "GET CONTEXT INFO [<context>]",
        GetContextInfo,
        get_context_info,
        _show_info,
        topic="Contexts",
        help="Tell a context's SN, and as whom one speaks to it; without a name of the current one.",
        example="GET CONTEXT INFO heart",
        route=Route("GET", "/contexts/{context}"),
    ),
    make_entry(
        "GET CONTEXT VERSION",
        GetContextVersion,
        get_context_version,
        _show_versions,
        topic="Contexts",
        help="Tell the releases of the current context's SN and of this command interface.",
        example="GET CONTEXT VERSION",
        route=Route("GET", "/version"),
    ),
    make_entry(
        "LIST CONTEXTS",
        ListContexts,
        list_contexts,
        _show_names,
        topic="Contexts",
        help="List the contexts.",
        example="LIST CONTEXTS",
        route=Route("GET", "/contexts"),
    ),
    make_entry(
        "DELETE CONTEXT <context>",
        DeleteContext,
        delete_context,
        lambda name: Shown((f"CONTEXT DELETED : {name}",)),
        topic="Contexts",
        help="Forget a context; the network itself does not notice.",
        example="DELETE CONTEXT heart",
        route=Route("DELETE", "/contexts/{context}"),
    ),
    make_entry(
        "GET CONTEXT ENV [<context>] <variable>",
        GetContextVariable,
        get_context_variable,
        _show_variable,
        topic="Contexts",
        help="Tell a variable of a context.",
        example="GET CONTEXT ENV heart SWCI_RUN_TASK_MAX_WAIT_TIME",
        route=Route("GET", "/contexts/{context}/variables/{variable}"),
    ),
    make_entry(
        "SET CONTEXT ENV [<context>] <variable> <value>",
        SetContextVariable,
        set_context_variable,
        _show_variable,
        topic="Contexts",
        help='Set a variable of a context, which counts before the environment\'s; an empty value ("") removes it.',
        example="SET CONTEXT ENV heart SWCI_RUN_TASK_MAX_WAIT_TIME 240",
        route=Route("PUT", "/contexts/{context}/variables/{variable}"),
    ),
    make_entry(
        "LIST CONTEXT ENV [<context>]",
        ListContextVariables,
        list_context_variables,
        _show_variables,
        topic="Contexts",
        help="List the variables of a context.",
        example="LIST CONTEXT ENV heart",
        route=Route("GET", "/contexts/{context}/variables"),
    ),
    make_entry(
        "WAIT FOR IP <ip> [<port>] [<retries>]",
        WaitForHost,
        wait_for_host,
        _show_reached,
        topic="Contexts",
        help="Wait until the SN at an address is up: by default 360 times 5 seconds, which is half an hour.",
        example="WAIT FOR IP 10.0.0.1 30304 12",
        waits=True,
    ),
    make_entry(
        "WAIT FOR SERVICE <service> [<retries>]",
        WaitForService,
        wait_for_service,
        _show_reached,
        topic="Contexts",
        help="Wait until the SN behind a service's name is up: by default 360 times 5 seconds, which is half an hour.",
        example="WAIT FOR SERVICE api.sn.hospital-a.example:443",
        waits=True,
    ),
)
