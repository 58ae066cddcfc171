"""The OpenAPI document: complete, current, and what the service does: CI-28.

Requests that schemathesis makes up from the document are sent over mutual TLS: a few, always the same, here; more, from
other seeds, with `make fuzz`.
"""

import copy
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance
from web_table import TABLE
from web_world import Service

from swarmlearning.errors import ConfigurationError, InvalidName
from swarmlearning.swci.table import COMMANDS
from swarmlearning.swci.values import KINDS
from swarmlearning.swci.web.openapi import make_document, operation_id
from swarmlearning.swci.web.schemas import SCHEMAS

ROOT: Final = Path(__file__).parents[3]

EXAMPLES: Final = max(5, settings.default.max_examples // 5) if settings.default else 20
"""Requests an operation and way of making them up."""

FAILING: Final = "/v1/failures"
"""Has faults on purpose."""

ELSEWHERE: Final = {"/v1/contexts/{context}/ip", "/v1/contexts/{context}/service"}
"""They knock at whatever address they are given."""


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_openapi", ROOT / "tools" / "make_openapi.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the document -----------------------------------------------------------------------------------------------


def test_ci28_the_published_document_is_what_the_code_would_write() -> None:
    written = (ROOT / "docs" / "reference" / "openapi.json").read_bytes()
    assert written == load_tool().write_document(), "run `python tools/make_openapi.py`"


def test_ci28_the_service_gives_its_own_document(small: Service, service: Service) -> None:
    assert small.caller().get("/v1/openapi.json").json == make_document(TABLE)
    assert service.caller().get("/v1/openapi.json").json == make_document(COMMANDS)


@pytest.mark.parametrize("table", [TABLE, COMMANDS], ids=["small", "whole"])
def test_ci28_the_document_is_openapi_3_1_and_has_every_command_with_a_route_once(table: Any) -> None:
    document = make_document(table)
    validate(document)
    operations = {
        (method.upper(), path.removeprefix("/v1")): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    for entry in table:
        if entry.route is not None:
            operation = operations[entry.route.method, entry.route.path]
            assert operation["operationId"] == operation_id(entry)
            assert operation["summary"] == entry.help
            assert entry.usage in operation["description"]
            assert {"200", "400", "403", "500"} <= set(operation["responses"])
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(set(ids)) == len(ids) == len([entry for entry in table if entry.route]) + 4


def test_ci28_arguments_have_types_defaults_choices_and_examples() -> None:
    paths = make_document(TABLE)["paths"]
    look = {parameter["name"]: parameter for parameter in paths["/v1/contracts/{contract}/look"]["get"]["parameters"]}
    assert look["contract"]["in"] == "path"
    assert look["contract"]["required"]
    assert look["contract"]["example"] == "heart/2026"
    assert (look["most"]["in"], look["most"]["required"]) == ("query", False)
    assert look["most"]["schema"] == {"type": "integer", "minimum": -(2**53 - 1), "maximum": 2**53 - 1, "default": 10}
    content = paths["/v1/tasks/{task}/gifts"]["post"]["requestBody"]["content"]["application/json"]
    assert content["schema"]["required"] == ["peers"]
    assert content["schema"]["additionalProperties"] is False
    assert content["schema"]["properties"]["kind"] == {"type": "string", "enum": ["SMALL", "LARGE"], "default": "SMALL"}
    assert {"type": "null"} in content["schema"]["properties"]["note"]["anyOf"]
    assert content["example"] == {"peers": 3, "kind": "LARGE"}


def test_ci28_every_kind_of_argument_has_a_schema() -> None:
    assert set(SCHEMAS) == set(KINDS)


PATTERNS = [kind for kind, schema in SCHEMAS.items() if "pattern" in schema]


@pytest.mark.parametrize("kind", PATTERNS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_ci28_a_schema_says_what_the_shell_takes(kind: Any, data: st.DataObject) -> None:
    # As JSON schema means it, $ is the end and not what comes before a last line break.
    pattern = SCHEMAS[kind]["pattern"].removesuffix("$") + r"\Z"
    odd = st.text(alphabet=st.sampled_from("aA0_.-/ \n\r\0é٣")) | st.text()
    text = data.draw(st.from_regex(pattern) | odd)
    try:
        KINDS[kind].read(text)
        taken = True
    except (ConfigurationError, InvalidName):
        taken = False
    assert taken == bool(re.search(pattern, text))


# --- what schemathesis makes of it --------------------------------------------------------------------------------


def all_operations(document: dict[str, Any]) -> list[Any]:
    found = list(schemathesis.openapi.from_dict(document).get_all_operations())
    assert all(isinstance(result, Ok) for result in found)
    return [result.ok() for result in found if isinstance(result, Ok)]


def operations(document: dict[str, Any]) -> list[Any]:
    """What can be sent by itself: not what waits, goes on, or knocks elsewhere."""
    waiting = {f"/v1{entry.route.path}" for entry in (*TABLE, *COMMANDS) if entry.route and entry.waits}
    left_out = waiting | ELSEWHERE | {"/v1/events", FAILING}
    return [operation for operation in all_operations(document) if operation.path not in left_out]


def send_all(small: Service, operation: Any, mode: GenerationMode) -> None:
    """Send requests that follow the document, or with `NEGATIVE` do not, and check what comes back against it."""
    caller = small.caller("schemathesis")
    identity = caller.identity

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    def attack(case: Any) -> None:
        case.call_and_validate(
            base_url=small.base,
            cert=(identity.cert, identity.key),
            verify=identity.cacert,
            # What a name refers to may not be there, and an argument may be well-formed and still make no sense.
            excluded_checks=[positive_data_acceptance],
        )

    attack()


def attacks(document: dict[str, Any]) -> list[Any]:
    """Operations and ways of making up requests; where there are no arguments, none can be wrong."""
    return [
        pytest.param(operation, mode, id=f"{operation.label}-{mode.value}")
        for operation in operations(document)
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or {"parameters", "requestBody"} & set(operation.definition.raw)
    ]


@pytest.mark.hypothesis
@pytest.mark.parametrize(("operation", "mode"), attacks(make_document(TABLE)))
def test_ci28_the_service_does_what_its_document_says(small: Service, operation: Any, mode: GenerationMode) -> None:
    send_all(small, operation, mode)


@pytest.mark.hypothesis
@pytest.mark.parametrize(("operation", "mode"), attacks(make_document(COMMANDS)))
def test_ci28_the_whole_table_does_what_its_document_says(
    service: Service, operation: Any, mode: GenerationMode
) -> None:
    send_all(service, operation, mode)


def wrong_type(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["Looked"]["properties"]["most"] = {"type": "string"}


def missing_field(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["Looked"]["required"].append("more")


def unknown_status(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v1/contracts/{contract}/look"]["get"]["responses"]
    responses["201"] = responses.pop("200")


@pytest.mark.parametrize("lie", [wrong_type, missing_field, unknown_status], ids=lambda lie: lie.__name__)
def test_a_document_that_is_wrong_is_found_out(small: Service, lie: Callable[[dict[str, Any]], None]) -> None:
    document = copy.deepcopy(make_document(TABLE))
    lie(document)
    (operation,) = (found for found in operations(document) if found.label == "GET /v1/contracts/{contract}/look")
    with pytest.raises(FailureGroup, match=r"violates schema|Undocumented status code"):
        send_all(small, operation, GenerationMode.POSITIVE)


def test_a_service_that_has_faults_is_found_out(small: Service) -> None:
    (operation,) = (found for found in all_operations(make_document(TABLE)) if found.path == FAILING)
    with pytest.raises(FailureGroup, match="Server error"):
        send_all(small, operation, GenerationMode.POSITIVE)
