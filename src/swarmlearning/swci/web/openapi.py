"""The OpenAPI 3.1 document of the REST service, made from the table of commands. Spec: CI-28.

`docs/reference/openapi.json` is what this makes; `tools/make_openapi.py` writes it.
"""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.swci.entries import Entry, parse
from swarmlearning.swci.web.arguments import split_arguments
from swarmlearning.swci.web.problems import MEDIA_TYPE, Problem
from swarmlearning.swci.web.routes import PREFIX, Bound, Router
from swarmlearning.swci.web.schemas import REFERENCE, Schema, answer_schemas, argument_schema, may_be_null
from swarmlearning.swci.web.wire import Changed, Contents, Ended, Gap, Silent

VERSION: Final = "1"
"""Of the typed interface; the 1 in its paths."""

_PROBLEMS: Final[dict[int, str]] = {
    400: "An argument is missing, unknown or not what it must be.",
    403: "The caller is no operator of the service's organisation, or the ledger does not allow it.",
    404: "There is none of that name.",
    409: "It contradicts what is on the ledger, or comes too late.",
    413: "The body is too large.",
    415: "The body has another media type than the one expected.",
    422: "The ledger, or the SN, refused it for another reason.",
    429: "Another command of this caller goes on, or there are too many; try again.",
    500: "A fault of the service's; its log has more.",
    502: "The SN does not answer, or not as it must.",
    503: "The service stops.",
    504: "What was waited for did not happen in time.",
}

_EVENTS: Final = """Server-sent events, until the client leaves: `change` says what changed on the ledger, the first one
at once and with no names; `gap`: what changed was missed, look at everything again; `silent`: the SN does not answer,
it is tried again; `end`: the service ends the stream, and why. A comment comes at least every 15 seconds. The id is
the block's height; with `Last-Event-ID` the stream goes on from there, as far back as the service remembers."""


def make_document(entries: Sequence[Entry]) -> dict[str, Any]:
    """The document of all commands of a table that have a route."""
    bounds = Router(entries).bounds
    answers, components = answer_schemas(bound.entry for bound in bounds)
    others = (Problem, Contents, Changed, Gap, Silent, Ended)
    _, own = msgspec.json.schema_components(others, ref_template=REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for bound in sorted(bounds, key=lambda bound: (bound.route.path, bound.route.method)):
        operation = _operation(bound, answers[bound.entry.answer])
        paths.setdefault(PREFIX + bound.route.path, {})[bound.route.method.lower()] = operation
    paths |= _fixed_paths()
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Swarm Learning: REST service of the command interface",
            "version": VERSION,
            "description": "What `swarm ci` can do, for programs. Callers show a certificate of the role operator of "
            "the service's own organisation; each has a session of its own: contexts, directory, one command at a "
            "time. Names may hold a slash, which stands as `%2F` in a path.",
        },
        "servers": [{"url": "/"}],
        "security": [{"mutualTLS": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted({**components, **own}.items())),
            "responses": {str(status): _problem(status, text) for status, text in _PROBLEMS.items()},
            "securitySchemes": {
                "mutualTLS": {"type": "mutualTLS", "description": "A certificate of the role operator."}
            },
        },
    }
    # As programs read it: defaults are tuples in ours.
    return msgspec.json.decode(msgspec.json.encode(document), type=dict[str, Any])


def _operation(bound: Bound, answer: Schema) -> dict[str, Any]:
    entry = bound.entry
    examples = _examples(entry)
    others = split_arguments(entry, bound.in_path)
    notes = [f"In the shell: `{entry.usage}`."]
    if entry.signs:
        notes.append("It signs a transaction on the caller's behalf.")
    if entry.waits:
        notes.append("It answers when what it waits for has happened; hang up to end it.")
    operation: dict[str, Any] = {
        "operationId": operation_id(entry),
        "tags": [entry.topic],
        "summary": entry.help,
        "description": " ".join(notes),
    }
    parameters = [_parameter(entry, name, "path", required=True, examples=examples) for name in bound.in_path]
    if bound.takes_json:
        operation["requestBody"] = _body(entry, others, examples)
    else:
        parameters += [
            _parameter(entry, name, "query", required=required, examples=examples) for name, required in others
        ]
    if parameters:
        operation["parameters"] = parameters
    statuses = [400, 403, 404, 409, 422, 429, 500, 502, 503, 504, *([413, 415] if bound.takes_json else [])]
    done = {"description": "Done.", "content": {"application/json": {"schema": answer}}}
    operation["responses"] = {"200": done, **_refer(*statuses)}
    return operation


def operation_id(entry: Entry) -> str:
    """What generated clients call a command: its record's name."""
    name = entry.command.__name__
    return name[0].lower() + name[1:]


def _examples(entry: Entry) -> dict[str, Any]:
    """The arguments of a command's example."""
    try:
        meant = parse([entry], entry.example)
    except ConfigurationError:
        return {}
    return {} if meant is None else msgspec.structs.asdict(meant.command)


def _parameter(entry: Entry, name: str, where: str, *, required: bool, examples: dict[str, Any]) -> dict[str, Any]:
    parameter = {
        "name": name,
        "in": where,
        "required": required,
        "schema": argument_schema(entry.command, name),
    }
    if examples.get(name) is not None:
        parameter["example"] = examples[name]
    return parameter


def _body(entry: Entry, others: Sequence[tuple[str, bool]], examples: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Schema] = {}
    for name, _ in others:
        given = argument_schema(entry.command, name)
        properties[name] = {"anyOf": [given, {"type": "null"}]} if may_be_null(entry.command, name) else given
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required := [name for name, is_required in others if is_required]:
        schema["required"] = required
    content: dict[str, Any] = {"schema": schema}
    example = {name: examples[name] for name, _ in others if examples.get(name) is not None}
    if example or not others:
        content["example"] = example
    return {"required": True, "content": {"application/json": content}}


def _problem(status: int, text: str) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": REFERENCE.format(name="Problem")}}}
    return {"description": f"{HTTPStatus(status).phrase}. {text}", "content": content}


def _refer(*statuses: int) -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}


def _contents(text: str) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(name="Contents")}
    return {"200": {"description": text, "content": {"application/json": {"schema": schema}}}}


def _fixed_paths() -> dict[str, dict[str, Any]]:
    """What is no command of the table."""
    line = {"type": "string", "description": "One line, as in the shell."}
    command = {"name": "cmd", "in": "query", "required": True, "schema": line, "example": "PWD"}
    file = {"type": "string", "format": "binary", "description": "The task file, with its name."}
    form = {"type": "object", "properties": {"file": file}, "required": ["file"], "additionalProperties": False}
    last = {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
        "description": "The id of the last event that was seen.",
    }
    kinds = [{"$ref": REFERENCE.format(name=kind)} for kind in ("Changed", "Gap", "Silent", "Ended")]
    return {
        "/exec": {
            "post": {
                "operationId": "exec",
                "tags": ["Existing clients"],
                "summary": "Carry out one line of the command interface.",
                "description": "`cmd` may stand in a form instead (application/x-www-form-urlencoded). A command that "
                "fails answers with status 200 and a line that begins with `ERROR `.",
                "parameters": [command],
                "responses": {
                    **_contents("The lines that the command said."),
                    **_refer(400, 403, 413, 415, 429, 500, 503),
                },
            }
        },
        "/uploadTaskDef": {
            "post": {
                "operationId": "uploadTaskDef",
                "tags": ["Existing clients"],
                "summary": "Put a task file into the caller's current directory, for CREATE TASK FROM.",
                "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
                "responses": {
                    **_contents("A line that says where the file is."),
                    **_refer(400, 403, 413, 415, 429, 500, 503),
                },
            }
        },
        f"{PREFIX}/events": {
            "get": {
                "operationId": "events",
                "tags": ["Events"],
                "summary": "What changes on the ledger, as it changes.",
                "description": re.sub(r"\s+", " ", _EVENTS),
                "parameters": [last],
                "responses": {
                    "200": {
                        "description": "Events; the data of each is JSON.",
                        "content": {"text/event-stream": {"schema": {"anyOf": kinds}}},
                    },
                    **_refer(400, 403, 429, 500, 503),
                },
            }
        },
        f"{PREFIX}/openapi.json": {
            "get": {
                "operationId": "openapi",
                "tags": ["Session"],
                "summary": "This document.",
                "responses": {
                    "200": {"description": "It.", "content": {"application/json": {"schema": {"type": "object"}}}},
                    **_refer(403, 500),
                },
            }
        },
    }
