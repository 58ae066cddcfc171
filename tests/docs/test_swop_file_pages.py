"""Examples in the reference pages of profiles and policies run through the readers; their tables have every field."""

import re
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from swarmlearning.cli.main import main
from swarmlearning.contracts.task_records import MAX_UNITS, TaskType
from swarmlearning.errors import ExitCode
from swarmlearning.swop import policy_file, profile_file, profile_nodes
from swarmlearning.swop.policy import Limits, Policy, Rule, ShareLog
from swarmlearning.swop.policy_file import read_policy
from swarmlearning.swop.profile import IdentityPart, ManagerKind, PeerNode, Profile
from swarmlearning.swop.profile_file import read_profile

ROOT = Path(__file__).parent.parent.parent
PAGES = {
    name: (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8") for name in ("profile", "policy")
}


def block(page: str, language: str) -> str:
    return str(re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)[0])


def rows(page: str) -> dict[str, str]:
    """The first cell of each row, names in it one by one, to the row."""
    found = {}
    for line in PAGES[page].splitlines():
        if line.startswith("| `"):
            for name in re.findall(r"`([a-zA-Z_.]+)`", line.split("|")[1]):
                found[name] = line
    return found


def test_sw21_the_example_profile_is_read_as_the_page_says() -> None:
    found = read_profile(block("profile", "yaml").encode(), "p", {"CERTS": "/pki"}, directory="/etc/swarm")
    assert isinstance(found, Profile), found.lines()
    assert (found.group, found.manager, found.policy) == ("heart", ManagerKind.PROCESS, "/etc/swarm/policy.yaml")
    (node,) = found.nodes
    assert (node.sl_hostname, node.sl_host_ip, node.sl_port) == ("sl-1", "192.0.2.7", 30305)
    assert [part.part for part in node.identity] == ["KEY", "CERT", "CACERT"]
    assert found.warnings == ()


def test_sw21_the_page_has_every_field_of_a_profile() -> None:
    known = {*profile_file._KNOWN, *profile_nodes._KNOWN}
    told = {name.split(".")[0] for name in rows("profile")}
    assert known - told == set()
    assert {"aType", "mType", "src", "tgt", "subPath", "subpath"} <= told
    assert told - known - {"aType", "mType", "src", "tgt", "subPath", "subpath"} == {"", "port"} & told
    for kind in (*ManagerKind, *IdentityPart):
        assert f"`{kind.value}`" in PAGES["profile"]


def test_sw21_defaults_on_the_page_are_the_codes() -> None:
    fields = {field.name: field.default for field in structs.fields(PeerNode)}
    assert f"| `slport` | {fields['sl_port']} |" in PAGES["profile"]
    assert "| `taskrunner` | `defaulttaskbb.taskdb.sml.hpe` |" in PAGES["profile"]
    assert f"at most {MAX_UNITS}" in PAGES["profile"]
    assert f"up to {profile_file.MAX_RUNNERS}" in PAGES["profile"]
    assert f"0 to {profile_nodes.MAX_IDX}" in PAGES["profile"]


def test_sw25_the_example_policy_is_read_as_the_page_says() -> None:
    found = read_policy(block("policy", "yaml").encode(), "p")
    assert isinstance(found, Policy), found.lines()
    assert [rule.name for rule in found.rules] == ["heart study", "environments at night"]
    assert (found.limits.memory, found.limits.run_time_s) == (8 << 30, 43_200)
    assert found.warnings == ()


def test_sw25_the_page_has_every_field_of_a_policy() -> None:
    known = {*policy_file._KNOWN, *policy_file._LIMITS, *policy_file._RULE}
    told = set(rows("policy"))
    assert known == told
    for kind in TaskType:
        assert (f"`{kind.value}`" in PAGES["policy"]) is (kind is not TaskType.ROOT_TASK)
    for word in ShareLog:
        assert f"`{word.value}`" in PAGES["policy"]


def test_sw25_records_and_file_have_the_same_fields() -> None:
    assert set(policy_file._RULE) == set(Rule.__struct_fields__)
    assert {name.removesuffix("_s") for name in Limits.__struct_fields__} == set(policy_file._LIMITS)
    assert {*policy_file._KNOWN, "digest", "warnings"} - {"version"} == set(Policy.__struct_fields__)


def test_sw25_defaults_on_the_page_are_the_codes() -> None:
    default = Policy(digest=b"")
    table = rows("policy")
    for name in ("ask", "allow_unsandboxed"):
        assert f"| `{str(getattr(default, name)).lower()}` |" in table[name]
    assert f"| `{default.share_log.value}` |" in table["share_log"]
    assert f"| `{default.limits.content >> 30}GiB` |" in table["content"]
    assert f"| `{default.limits.log >> 20}MiB` |" in table["log"]
    assert all("| no limit |" in table[name] for name in ("memory", "processes", "open_files", "cpus", "run_time"))
    assert msgspec.structs.asdict(default)["network"] is False


def test_sw37_what_would_be_decided_is_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGES["policy"].split("## What would be decided")[1]
    shown = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)[0].splitlines()
    Path("policy.yaml").write_text(block("policy", "yaml"))
    Path("policy.yaml").chmod(0o600)
    header = "Author: a\nOutcome: o\n"
    build = (
        "Name: environment\nTaskType: MAKE_USER_CONTAINER\nBody: {BuildType: INLINE, BuildSteps: [FROM python:3.12]}\n"
    )
    body = "Body: {Command: c, Entrypoint: python3, WorkingDir: /w, PrivateContent: /data}\n"
    run = "Name: heart\nTaskType: RUN_SWARM\nPrereq: environment\n" + body
    Path("build.yaml").write_text(header + build)
    Path("run.yaml").write_text(header + run)
    assert main(shown[0].removeprefix("$ swarm ").split()) == ExitCode.OK
    assert capsys.readouterr().out.splitlines()[1:] == shown[2:]
