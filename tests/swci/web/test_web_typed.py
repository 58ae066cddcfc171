"""Typed requests: routes, arguments and answers of the table's commands, and what tells errors: CI-26, CI-27."""

from typing import Any
from urllib.parse import quote

import pytest
from web_table import ERRORS, Append, LookAt, append, look_at
from web_world import Service

from swarmlearning.swci.entries import Route, Shown, make_entry
from swarmlearning.swci.table import COMMANDS
from swarmlearning.swci.web.routes import Router

JSON = {"Content-Type": "application/json"}


def test_ci26_a_command_answers_with_its_record(small: Service) -> None:
    answer = small.caller().get("/v1/contracts/heart/look")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json == {"contract": "heart", "most": 10, "peers": []}


def test_ci26_arguments_come_from_path_query_and_body(small: Service) -> None:
    caller = small.caller()
    assert caller.get("/v1/contracts/heart/look?most=3").json["most"] == 3
    given = caller.post("/v1/tasks/build/gifts", peers=2, kind="LARGE", note=None)
    assert given.json == {"task": "build", "peers": 2, "kind": "LARGE", "note": None}
    assert caller.put("/v1/tasks/build/line", line="  RUN 'x").json == "  RUN 'x"


@pytest.mark.parametrize("name", ["a/b", "rehearsal/2026/heart", "a/look", "A.b_c-d", "a//b", "a/"])
def test_ci26_a_name_with_a_slash_stands_encoded_in_the_path(small: Service, name: str) -> None:
    answer = small.caller().get(f"/v1/contracts/{quote(name, safe='')}/look")
    assert answer.json["contract"] == name


@pytest.mark.parametrize("path", ["/v1/contracts/%61/look", "/v1/%63ontracts/a/loo%6B"])
def test_ci26_encoded_letters_are_letters(small: Service, path: str) -> None:
    assert small.caller().get(path).json["contract"] == "a"


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/v1",
            "/v1/",
            "/v1x",
            "/v2/directory",
            "/v1/contracts",
            "/v1/contracts/a/b/look",
            "/v1/contracts//look",
        ),
        *("/v1/contracts/a/look/", "/v1/directory/", "/v1//directory", "/v1/contracts%2Fa/look", "/exec/", "/v1x"),
    ],
)
def test_ci26_other_paths_are_told_where_to_look(small: Service, path: str) -> None:
    status, code, detail = small.caller().get(path).problem
    assert (status, code) == (404, "no-such-path")
    assert "/v1/openapi.json" in detail


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_ci26_another_method_is_told_which_there_are(small: Service, method: str) -> None:
    answer = small.caller().ask(method, "/v1/tasks/build/gifts")
    assert answer.problem[:2] == (405, "method")
    assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("method", "path", "body", "detail"),
    [
        ("GET", "/v1/contracts/-a/look", None, "<contract> contract name '-a': expected"),
        ("GET", "/v1/contracts/%ff/look", None, "the path is not percent-encoded UTF-8"),
        ("GET", "/v1/contracts/a%00b/look", None, "control character"),
        ("GET", "/v1/contracts/a/look?most=many", None, "<most> 'many': expected a whole number"),
        ("GET", "/v1/contracts/a/look?most=1&most=2", None, "gives an argument twice"),
        ("GET", "/v1/contracts/a/look?contract=b", None, "<contract> stands in the path"),
        ("GET", "/v1/contracts/a/look?other=1", None, "there is no argument 'other'; there are: contract, most"),
        ("GET", "/v1/contracts/a/look?most", None, "the query"),
        ("GET", "/v1/contracts/a/look?most=%ff", None, "the query"),
        ("GET", "/v1/contracts/a/look?" + "&".join(f"a{n}=1" for n in range(40)), None, "the query"),
        ("GET", "/v1/contracts/a/look", b"{}", "a GET has no body"),
        ("POST", "/v1/tasks/a/gifts?peers=1", b"{}", "expected no query"),
        ("POST", "/v1/tasks/a/gifts", b"", "expected a JSON object"),
        ("POST", "/v1/tasks/a/gifts", b"[1]", "expected a JSON object"),
        ("POST", "/v1/tasks/a/gifts", b"{", "expected a JSON object"),
        ("POST", "/v1/tasks/a/gifts", b'{"peers":\xff}', "expected a JSON object"),
        ("POST", "/v1/tasks/a/gifts", b"[" * 100_000, "expected a JSON object"),
        ("POST", "/v1/tasks/a/gifts", b"{}", "missing required field `peers`"),
        ("POST", "/v1/tasks/a/gifts", b'{"peers":"1"}', "Expected `int`, got `str`"),
        ("GET", "/v1/contracts/a/look?most=1_0", None, "<most> '1_0': expected a whole number"),
        ("GET", "/v1/contracts/a/look?most=9007199254740992", None, "<most> a number beyond 9007199254740991"),
        ("POST", "/v1/tasks/a/gifts", b'{"peers":-9007199254740992}', "<peers> a number beyond 9007199254740991"),
        ("POST", "/v1/tasks/a/gifts", b'{"peers":true}', "Expected `int`, got `bool`"),
        ("POST", "/v1/tasks/a/gifts", b'{"peers":1.5}', "Expected `int`, got `float`"),
        ("POST", "/v1/tasks/a/gifts", b'{"peers":1,"kind":"HUGE"}', "<kind> 'HUGE': expected one of SMALL, LARGE"),
        ("POST", "/v1/tasks/a/gifts", b'{"peers":1,"more":1}', "there is no argument 'more'"),
        ("POST", "/v1/tasks/a/gifts", b'{"peers":1,"task":"b"}', "<task> stands in the path"),
        ("POST", "/v1/tasks/a/gifts", b'{"peers":1,"note":"a\\u0000b"}', "control character U+0000"),
        ("POST", "/v1/tasks/a/gifts", b'{"peers":1,"note":"a\\r\\nb"}', "control character U+000D"),
        ("POST", "/v1/tasks/a/gifts", b'{"peers":1,"note":"' + b"a" * 5000 + b'"}', "<note> of 5000 characters"),
        ("PUT", "/v1/tasks/a/line", b'{"line":"' + b"a" * 20_000 + b'"}', "<line> of 20000 characters"),
    ],
    ids=range(31),
)
def test_ci26_arguments_that_are_none_are_named(
    small: Service, method: str, path: str, body: bytes | None, detail: str
) -> None:
    answer = small.caller().ask(method, path, body=body, headers=JSON if body is not None else None)
    status, code, said = answer.problem
    assert (status, code) == (400, "ConfigurationError")
    assert detail in said
    assert said.isprintable()


@pytest.mark.parametrize("how", ERRORS)
def test_ci27_the_status_tells_an_errors_kind(small: Service, how: str) -> None:
    error, expected = ERRORS[how]
    answer = small.caller().post("/v1/failures", how=how)
    status, code, detail = answer.problem
    assert status == expected
    assert answer.json["type"] == "about:blank"
    if expected == 500:
        assert code == "internal"
        assert str(error) not in detail
    else:
        assert detail == str(error)
        assert code == getattr(error, "code", type(error).__name__)


def test_ci27_a_fault_of_ours_tells_nothing_and_ends_nothing(small: Service) -> None:
    caller = small.caller()
    answer = caller.post("/v1/failures", how="swordfish")
    assert answer.problem[:2] == (500, "internal")
    assert b"swordfish" not in answer.data
    assert caller.get("/v1/directory").status == 200


def test_ci26_a_command_that_waits_answers_when_it_is_over(small: Service) -> None:
    assert small.caller().post("/v1/waits", seconds=0).json is None


# --- the table --------------------------------------------------------------------------------------------------


def test_ci26_the_tables_routes_are_one_each_and_name_arguments() -> None:
    bounds = Router(COMMANDS).bounds
    assert len(bounds) == len([entry for entry in COMMANDS if entry.route is not None]) > 10
    fixed = {("GET", "/events"), ("GET", "/openapi.json")}
    assert not fixed & {(bound.route.method, bound.route.path) for bound in bounds}


def _entry(command: Any, handler: Any, route: Route) -> Any:
    syntax = "LOOK AT <contract> [<most>]" if command is LookAt else "APPEND TO <task> <line...>"
    others = {"topic": "Tasks", "help": ".", "example": ".", "route": route}
    return make_entry(syntax, command, handler, lambda _: Shown(), **others)


@pytest.mark.parametrize(
    "routes",
    [
        [Route("GET", "/a/{contract}"), Route("GET", "/a/{task}")],
        [Route("GET", "/a/{other}"), Route("GET", "/b/{task}")],
        [Route("GET", "/a/{contract}/{contract}"), Route("GET", "/b/{task}")],
        [Route("GET", "a/{contract}"), Route("GET", "/b/{task}")],
    ],
)
def test_ci26_routes_that_contradict_each_other_are_a_fault_of_ours(routes: list[Route]) -> None:
    entries = [_entry(LookAt, look_at, routes[0]), _entry(Append, append, routes[1])]
    with pytest.raises(ValueError, match="route"):
        Router(entries)


def test_ci26_a_word_of_a_path_counts_before_an_argument() -> None:
    entries = [
        _entry(LookAt, look_at, Route("GET", "/a/{contract}")),
        _entry(Append, append, Route("GET", "/a/all")),
    ]
    router = Router(entries)
    assert router.find("GET", "/a/all").bound.entry is entries[1]
    assert router.find("GET", "/a/other").bound.entry is entries[0]
