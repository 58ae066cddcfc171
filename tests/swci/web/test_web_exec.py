"""`/exec` and `/uploadTaskDef` for existing clients, and browsers that are made to ask: CI-24, CI-25, CI-30."""

import logging
import unicodedata
from pathlib import Path
from urllib.parse import urlencode

import pytest
from swci_world import Swarm
from web_world import Service

from swarmlearning.errors import ConfigurationError
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.lexer import MAX_LINE_BYTES
from swarmlearning.swci.web import uploads
from swarmlearning.swci.web.uploads import MAX_UPLOAD_BYTES, Upload, check_file_name, read_upload, store_upload

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


# --- /exec ------------------------------------------------------------------------------------------------------


def test_ci24_a_lines_output_comes_in_order_and_not_indented(small: Service) -> None:
    caller = small.caller()
    answer = caller.ask("POST", "/exec?cmd=GIVE%20build%203%20large")
    assert answer.headers["Content-Type"] == "application/json"
    assert list(answer.json) == ["CONTENT"]
    assert answer.lines == ["giving 3", "Given(task='build', peers=3, kind='LARGE', note=None)"]


@pytest.mark.parametrize("line", ["", "   ", "# a comment"])
def test_ci24_an_empty_line_has_no_output(small: Service, line: str) -> None:
    assert small.caller().say(line) == []


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("FAIL CONFLICT", "ERROR another body"),
        ("FAIL UNREACHABLE", "ERROR SN 10.0.0.1:30304 does not answer"),
        ("PWDD", "ERROR unknown command 'PWDD'; did you mean PWD?"),
        ("GIVE build", "ERROR expected <peers>, the line ends; usage: GIVE <task> <peers> [<kind>] [<note>]"),
        ("GIVE build many", "ERROR <peers> 'many': expected a whole number; usage: GIVE"),
        ("CD 'a", "ERROR the quote ' at character 4 is not closed"),
        ("CD a\x07", "ERROR character 5 is the control character U+0007"),
        ("PWD\r\nX-Injected: 1", "ERROR character 4 is the control character U+000D"),
        ("CD " + "a" * MAX_LINE_BYTES, f"ERROR a line of {MAX_LINE_BYTES + 3} bytes"),
    ],
)
def test_ci24_a_command_that_fails_is_one_error_line_with_status_200(small: Service, line: str, error: str) -> None:
    caller = small.caller()
    answer = caller.ask("POST", "/exec?" + urlencode({"cmd": line}))
    assert answer.status == 200
    (said,) = answer.lines
    assert said.startswith(error)
    assert said.isprintable()
    assert "X-Injected" not in answer.headers


def test_ci24_a_form_may_hold_the_line_and_one_of_a_megabyte_is_one_error_line(small: Service) -> None:
    caller = small.caller()
    assert caller.ask("POST", "/exec", body="cmd=GIVE+build+1", headers=FORM).lines[0] == "giving 1"
    (said,) = caller.ask("POST", "/exec", body="cmd=" + "a" * 1_000_000, headers=FORM).lines
    assert said == f"ERROR a line of 1000000 bytes; expected at most {MAX_LINE_BYTES}"


def test_ci24_an_empty_form_beside_the_query_is_no_harm(small: Service) -> None:
    answer = small.caller().ask("POST", "/exec?cmd=GIVE%20build%201", body="", headers=FORM)
    assert answer.lines[0] == "giving 1"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/exec", None, 400, "ConfigurationError"),
        ("/exec?cmd=PWD&cmd=LS", None, 400, "ConfigurationError"),
        ("/exec?cmd=PWD&other=1", None, 400, "ConfigurationError"),
        ("/exec?cmd=%ff", None, 400, "ConfigurationError"),
        ("/exec?cmd", None, 400, "ConfigurationError"),
        ("/exec", "cmd=PWD&cmd=LS", 400, "ConfigurationError"),
        ("/exec", "a" * (2 << 20), 413, "too-large"),
    ],
)
def test_ci24_what_is_no_line_is_told_in_both_forms(
    small: Service, path: str, body: str | None, status: int, code: str
) -> None:
    answer = small.caller().ask("POST", path, body=body, headers=FORM if body else None)
    assert answer.problem[:2] == (status, code)
    assert answer.json["CONTENT"] == [f"ERROR {answer.json['detail']}"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/exec?cmd=PWD", "/uploadTaskDef"])
def test_ci24_other_methods_are_refused_with_those_that_there_are(small: Service, method: str, path: str) -> None:
    answer = small.caller().ask(method, path)
    assert answer.problem[:2] == (405, "method")
    assert answer.headers["Allow"] == "POST"


def test_ci27_a_fault_of_ours_is_logged_and_not_told(small: Service, caplog: pytest.LogCaptureFixture) -> None:
    caller = small.caller()
    answer = caller.ask("POST", "/exec?cmd=FAIL%20swordfish")
    assert answer.problem[:2] == (500, "internal")
    assert answer.json["CONTENT"] == [f"ERROR {answer.json['detail']}"]
    assert b"swordfish" not in answer.data
    (record,) = (record for record in caplog.records if record.exc_info)
    assert record.exc_info is not None
    assert "swordfish" in str(record.exc_info[1])
    assert caller.say("PWD")


@pytest.mark.parametrize(("how", "text"), [("IDENTITY", "key /secret/place"), ("BROKEN", "a detail of the disk")])
def test_ci27_why_our_identity_or_we_failed_is_logged_and_not_told(
    small: Service, caplog: pytest.LogCaptureFixture, how: str, text: str
) -> None:
    caller = small.caller()
    (line,) = caller.say(f"FAIL {how}")
    assert line == "ERROR the REST service failed: an internal error, see its log"
    assert caller.post("/v1/failures", how=how).problem == (500, "internal", line.removeprefix("ERROR "))
    assert [text in record.getMessage() for record in caplog.records if record.exc_info] == [True, True]


def test_ci31_the_log_has_caller_and_verb_and_never_arguments_or_bodies(
    small: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "swarmlearning.swci.web")
    caller = small.caller("logged")
    caller.say("GIVE swordfish 3")
    caller.say("swordfish")
    caller.say("FAIL CONFLICT")
    caller.upload("swordfish.yaml", b"swordfish")
    caller.post("/v1/tasks/swordfish/gifts", peers=1, note="swordfish")
    caller.get("/v1/swordfish?swordfish=1")
    small.settle()
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("logged@")]
    assert not any("swordfish" in line for line in lines)
    told = [line.rsplit(" in ", 1)[0] for line in lines]
    assert told == [
        "logged@a.example: GIVE: done",
        "logged@a.example: (nothing known): ConfigurationError",
        "logged@a.example: FAIL: Refused",
        "logged@a.example: upload: done",
        "logged@a.example: GIVE: done",
        "logged@a.example: (nothing known): WebRefusal no-such-path",
    ]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# --- uploads ----------------------------------------------------------------------------------------------------


def test_ci25_an_upload_goes_to_the_callers_directory_and_replaces_the_file_of_its_name(small: Service) -> None:
    (small.root / "defs").mkdir()
    caller = small.caller()
    caller.say("CD defs")
    for data in (b"Name: one\n", bytes(range(256)) + b"\r\n--no boundary\r\n"):
        assert caller.upload("build task.yaml", data).lines == [f"Uploaded : {small.root}/defs/build task.yaml"]
        assert (small.root / "defs" / "build task.yaml").read_bytes() == data
    assert names(small.root / "defs") == ["build task.yaml"]
    assert caller.say("LS") == ["build task.yaml"]


@pytest.mark.parametrize("name", ["t", "Übung.yaml", "日本.yml", "a-b_c+d@e.tar.gz", "x" * 128])
def test_ci25_safe_names_are_taken(small: Service, name: str) -> None:
    assert small.caller().upload(name, b"x").lines == [f"Uploaded : {small.root}/{name}"]
    assert check_file_name(unicodedata.normalize("NFD", name)) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".hidden", "../up", "/etc/passwd", "a/b", "a\\b", "C:x", "-rf", " a", "a ", "a\n", "a\0b"),
        *("a\x1b[2J", "x" * 129, "\N{HIRAGANA LETTER A}" * 70, "a\N{RIGHT-TO-LEFT OVERRIDE}lmay", "a|b", "*", "~"),
    ],
)
def test_ci25_odd_names_are_refused(small: Service, name: str) -> None:
    with pytest.raises(ConfigurationError):
        check_file_name(name)
    before = names(small.root)
    answer = small.caller().upload(name, b"x")
    assert answer.problem[:2] == (400, "ConfigurationError")
    assert names(small.root) == before


def test_ci25_a_link_is_replaced_and_not_followed_and_a_directory_is_left_alone(small: Service, swarm: Swarm) -> None:
    outside = swarm.workdir / swarm.fresh("outside")
    outside.write_bytes(b"outside")
    (small.root / "linked.yaml").symlink_to(outside)
    (small.root / "dir.yaml").mkdir()
    caller = small.caller()
    assert caller.upload("linked.yaml", b"new").status == 200
    assert outside.read_bytes() == b"outside"
    assert (small.root / "linked.yaml").read_bytes() == b"new"
    assert "is a directory" in caller.upload("dir.yaml", b"new").problem[2]


def test_ci25_a_file_that_is_too_large_is_refused_however_it_is_sent(small: Service) -> None:
    caller = small.caller()
    assert caller.upload("large.yaml", bytes(MAX_UPLOAD_BYTES - 1000)).status == 200
    assert caller.upload("larger.yaml", bytes(MAX_UPLOAD_BYTES)).problem[:2] == (413, "too-large")
    multipart = {"Content-Type": "multipart/form-data; boundary=b"}
    pieces = (bytes(65536) for _ in range(20))
    answer = caller.ask("POST", "/uploadTaskDef", body=pieces, headers=multipart)
    assert answer.problem[:2] == (413, "too-large")
    assert not (small.root / "larger.yaml").exists()


def test_ci25_a_compressed_body_is_not_unpacked(small: Service) -> None:
    packed = {"Content-Type": "multipart/form-data; boundary=b", "Content-Encoding": "gzip"}
    answer = small.caller().ask("POST", "/uploadTaskDef", body=b"\x1f\x8b", headers=packed)
    assert answer.problem[:2] == (415, "media-type")


def part(head: str, data: str = "x") -> str:
    return f"--b\r\n{head}\r\n\r\n{data}\r\n"


FILE = 'Content-Disposition: form-data; name="file"; filename="f.yaml"'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", "{}"),
        ("multipart/form-data", part(FILE) + "--b--"),
        ("multipart/form-data; boundary=", part(FILE) + "--b--"),
        ("multipart/form-data; boundary=" + "b" * 71, part(FILE) + "--b--"),
        ("multipart/form-data; boundary=b", ""),
        ("multipart/form-data; boundary=b", "--b--"),
        ("multipart/form-data; boundary=b", part(FILE)),
        ("multipart/form-data; boundary=b", part(FILE) * 2 + "--b--"),
        ("multipart/form-data; boundary=b", part(FILE.replace('"file"', '"other"')) + "--b--"),
        ("multipart/form-data; boundary=b", part(FILE.split(";")[0]) + "--b--"),
        ("multipart/form-data; boundary=b", part(FILE.rpartition(";")[0]) + "--b--"),
        ("multipart/form-data; boundary=b", part("A: b") + "--b--"),
        ("multipart/form-data; boundary=b", "--bX" + part(FILE)[3:] + "--b--"),
        ("multipart/form-data; boundary=b", part(FILE + "\r\nContent-Transfer-Encoding: base64") + "--b--"),
        ("multipart/form-data; boundary=b", part(FILE + "\r\nA: " + "a" * 5000) + "--b--"),
        ("multipart/form-data; boundary=b", part(FILE + "; filename*=latin-1''%ff") + "--b--"),
        ("multipart/form-data; boundary=b", part(FILE + "; filename*=utf-8''%ff") + "--b--"),
        ("multipart/form-data; boundary=b", part(FILE + " rubbish") + "--b--"),
        ("multipart/form-data; boundary=b", part(FILE.replace('"file"', '"other"')) + part(FILE) + "--b--"),
        ("multipart/form-data; boundary=b", part(FILE + "; filename*=utf-8''..%2Fup") + "--b--"),
    ],
    ids=range(20),
)
def test_ci25_a_malformed_form_is_refused(small: Service, kind: str, body: str) -> None:
    answer = small.caller().ask("POST", "/uploadTaskDef", body=body, headers={"Content-Type": kind})
    assert answer.status in (400, 415)
    assert answer.problem[2].isprintable()
    assert not (small.root / "f.yaml").exists()
    assert not (small.root.parent / "up").exists()


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (FILE, "f.yaml"),
        (FILE.lower(), "f.yaml"),
        ("content-disposition: form-data;name=file;filename=f.yaml", "f.yaml"),
        (FILE + "; filename*=utf-8''%C3%9Cbung.yaml", "Übung.yaml"),
        (FILE.replace("f.yaml", "Übung.yaml"), "Übung.yaml"),
        (FILE + "\r\nContent-Type: text/yaml", "f.yaml"),
    ],
)
def test_ci25_forms_are_read_as_clients_write_them(head: str, name: str) -> None:
    body = "a preamble\r\n" + part(head, "a\r\n\r\n--x\r\n") + "--b--\r\nan epilogue"
    read = read_upload('multipart/form-data; boundary="b"', body.encode())
    assert read == Upload(name=name, data=b"a\r\n\r\n--x\r\n")


def test_ci25_a_directory_takes_no_more_files_than_are_listed(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    root = swarm.workdir / swarm.fresh("full")
    root.mkdir()
    (root / "a").write_bytes(b"")
    monkeypatch.setattr(uploads, "MAX_LISTED", 1)
    with pytest.raises(ConfigurationError, match="has 1 files, the most there can be"):
        store_upload(Directory(root), Upload(name="b", data=b""))
    assert store_upload(Directory(root), Upload(name="a", data=b"new")).read_bytes() == b"new"


# --- browsers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "Rubbish"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://["},
        {"Origin": "https://127.0.0.1"},  # another port is another site's
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/exec?cmd=CD%20mine"), ("POST", "/uploadTaskDef"), ("GET", "/v1/directory"), ("GET", "/v1/events")],
)
def test_ci30_other_sites_pages_cannot_ask_through_an_operators_browser(
    small: Service, headers: dict[str, str], method: str, path: str
) -> None:
    assert small.caller().ask(method, path, headers=headers).problem[:2] == (403, "cross-site")


def test_ci30_the_own_origin_may_ask(small: Service) -> None:
    headers = {"Origin": small.base, "Sec-Fetch-Site": "same-origin"}
    assert small.caller().ask("POST", "/exec?cmd=PWD", headers=headers).lines


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
@pytest.mark.parametrize(("method", "path"), [("PUT", "/v1/directory"), ("POST", "/v1/tasks/build/gifts")])
def test_ci30_what_a_page_can_send_without_being_asked_is_no_typed_request(
    small: Service, kind: str | None, method: str, path: str
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = small.caller().ask(method, path, body=b'{"directory":".","peers":1}', headers=headers)
    assert answer.problem[:2] == (415, "media-type")


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/directory"), ("POST", "/exec?cmd=PWD"), ("GET", "/nothing")])
def test_ci30_no_answer_is_kept_or_taken_for_a_page(small: Service, method: str, path: str) -> None:
    answer = small.caller().ask(method, path)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not [name for name in answer.headers if name.startswith("Access-Control-")]
