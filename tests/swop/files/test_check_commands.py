"""`swarm profile check`, `swarm task check`, `swarm policy check`: what people see. Rules SW-24 and SW-37."""

from pathlib import Path

import profile_files
import pytest

from swarmlearning.cli.main import main
from swarmlearning.clock import system_clock
from swarmlearning.errors import ExitCode
from swarmlearning.identity.authority import Authority, create_ca, issue_certificate
from swarmlearning.swop.profile_check import check_profile
from swarmlearning.swop.profile_file import load_profile
from swarmlearning.types import NodeName, Role, TrustDomain

DAY_MS = 86_400_000
DOMAIN = TrustDomain("a.example")
LEAD = "spiffe://cleveland.example/heart/operator/lead"

BUILD = """\
Name: build
TaskType: MAKE_USER_CONTAINER
Author: Heart-Team
Outcome: user-env-1.0
Body: {BuildType: INLINE, BuildSteps: [FROM python:3.12-slim]}
"""
RUN = """\
Name: heart
TaskType: RUN_SWARM
Author: Heart-Team
Prereq: build
Outcome: o
Body: {Command: c, Entrypoint: python3, WorkingDir: /w, PrivateContent: /data}
"""


def swarm(*words: object) -> int:
    return main(list(map(str, words)))


def issue(base: Path, name: str, role: Role = Role.SL, network: str = "heart", at_ms: int | None = None) -> None:
    node = NodeName(domain=DOMAIN, network=network, role=role, name=name)
    began_ms = system_clock() if at_ms is None else at_ms
    issue_certificate(Authority.load(base / "ca"), node, ("localhost",), base / "pki", at_ms=began_ms, days=30)


def node(number: int, name: str, *lines: str) -> str:
    more = "".join(f"    {line}\n" for line in lines)
    return (
        profile_files.LEAST.split("nodes:\n")[1]
        .replace("idx: 0", f"idx: {number}\n    slport: {number + 1}")
        .replace(" k.pem", f" pki/{name}.key.pem")
        .replace(" c.pem", f" pki/{name}.cert.pem")
        .replace(" ca.pem", f" pki/{DOMAIN}.ca.pem")
    ) + more


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An organisation with two SLs; the working directory."""
    monkeypatch.chdir(tmp_path)
    create_ca(tmp_path / "ca", DOMAIN, at_ms=system_clock() - 90 * DAY_MS, days=3650)
    issue(tmp_path, "sl-1")
    issue(tmp_path, "sl-2")
    (tmp_path / "data").mkdir()
    return tmp_path


def profile(base: Path, *nodes: str, top: str = "") -> Path:
    path = base / "profile.yaml"
    path.write_text(f"groupname: demo\n{top}nodes:\n" + "".join(nodes))
    return path


def problems(path: Path) -> tuple[str, ...]:
    return check_profile(load_profile(path), system_clock()).problems


# --- profiles -------------------------------------------------------------------------------------------------------


def test_sw24_a_profile_in_order_is_told_by_the_names_of_its_peers(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = node(0, "sl-1", "slhostip: 192.0.2.7", "privatedata: {src: data, mType: BIND}")
    profile(base, first, node(1, "sl-2"), top="apls: {locator: {host: <X>}}\n")
    assert swarm("profile", "check", "profile.yaml") == ExitCode.OK
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "demo: taskrunner defaulttaskbb.taskdb.sml.hpe; manager whatever this host has; SN as `swarm swop --sn` says",
        "  a person is asked about every task",
        f"  node 0: sl-1@a.example, 192.0.2.7, port 1; private data {base / 'data'}",
        "  node 1: sl-2@a.example, this host, port 2; no private data",
    ]
    assert err == "WARNING profile.yaml: line 2, apls: has no effect; there are no licences\n"


def test_sw24_two_peers_with_one_certificate_are_a_problem(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile(base, node(0, "sl-1"), node(1, "sl-1", "slhostname: ward"))
    assert swarm("profile", "check", "profile.yaml") == ExitCode.CONFIGURATION
    assert capsys.readouterr().err == (
        "ERROR profile.yaml: node 1 (line 10): has the identity of sl-1@a.example, as node 0 has; each SL needs one of "
        "its own; run: swarm cert issue --ca CA --network heart --role sl --name ward --out DIRECTORY\n"
    )


def test_sw24_files_that_are_not_there_are_problems(base: Path) -> None:
    (told,) = problems(profile(base, node(0, "sl-9")))
    assert told.startswith(f"node 0 (line 3): certificate {base}/pki/sl-9.cert.pem: cannot be read (No such file")
    (told,) = problems(profile(base, node(0, "sl-1", "privatedata: {src: none, mType: BIND}")))
    assert told == f"node 0 (line 3): privatedata.src {base}/none: there is no such directory"
    (told,) = problems(profile(base, node(0, "sl-1"), top="policyuri: none.yaml\n"))
    assert told == f"policy {base}/none.yaml: cannot be read (No such file or directory); check policyuri"


def test_sw24_certificates_that_will_not_do_are_problems(base: Path) -> None:
    issue(base, "sn-1", Role.SN)
    (told,) = problems(profile(base, node(0, "sn-1")))
    assert "is the certificate of sn-1@a.example with the role sn; expected the role sl; run: swarm cert issue" in told
    issue(base, "old", at_ms=system_clock() - 60 * DAY_MS)
    (told,) = problems(profile(base, node(0, "old")))
    assert "old.cert.pem" in told
    mixed = node(0, "sl-1").replace("pki/sl-1.key.pem", "pki/sl-2.key.pem")
    (told,) = problems(profile(base, mixed))
    assert "is not the key of certificate" in told
    issue(base, "far", network="lung")
    assert problems(profile(base, node(0, "sl-1"), node(1, "far"))) == (
        "peers of more than one organisation or network: far@a.example, sl-1@a.example",
    )


def test_sw24_what_people_should_know_are_warnings(base: Path) -> None:
    issue(base, "soon", at_ms=system_clock() - 26 * DAY_MS)
    policy = base / "policy.yaml"
    policy.write_text("version: 1\nrules: [{name: all}]\n")
    policy.chmod(0o600)
    path = profile(base, node(0, "soon"), top="policyuri: policy.yaml\n")
    checked = check_profile(load_profile(path), system_clock())
    assert checked.problems == ()
    assert checked.warnings[0].startswith("node 0 (line 4): the certificate of soon@a.example ends at ")
    assert checked.warnings[1].startswith(f"policy {policy}: rule 'all' has no condition")
    path.write_text(path.read_text().replace("mType: BIND, src: pki/soon.key.pem", "mType: VOLUME, src: pki"))
    checked = check_profile(load_profile(path), system_clock())
    assert (checked.problems, checked.nodes[0].name) == ((), None)
    assert checked.warnings[0] == "node 0 (line 4): its identity lies in a volume, which was not looked at"


def test_sw24_faults_of_a_policy_are_problems_of_the_profile(base: Path) -> None:
    policy = base / "policy.yaml"
    policy.write_text("version: 9\nask: x\n")
    policy.chmod(0o600)
    assert len(problems(profile(base, node(0, "sl-1"), top="policyuri: policy.yaml\n"))) == 2


def test_sw37_every_fault_of_a_profile_is_a_line(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile(base, node(0, "<NAME>", "slhostip: a b"), top="policyur: x\n")
    assert swarm("profile", "check", "profile.yaml") == ExitCode.CONFIGURATION
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "ERROR profile.yaml line 2, policyur",
        "ERROR profile.yaml line 8, nodes[1].slnodedef.identity[1].attribute.src",
        "ERROR profile.yaml line 11, nodes[1].slnodedef.slhostip",
    ]


def test_sw37_placeholders_are_given_at_the_command_line(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile(base, node(0, "<NAME>"))
    assert swarm("profile", "check", "profile.yaml") == ExitCode.CONFIGURATION
    assert "the placeholder <NAME> (2 times) has no value; give it with --set NAME=VALUE" in capsys.readouterr().err
    assert swarm("profile", "check", "profile.yaml", "--set", "NAME=sl-1") == ExitCode.OK
    assert swarm("profile", "check", "profile.yaml", "--set", "NAME") == ExitCode.CONFIGURATION
    assert swarm("profile", "check", "none.yaml") == ExitCode.CONFIGURATION


# --- tasks ----------------------------------------------------------------------------------------------------------


def test_sw37_task_files_are_told_one_by_one(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("build.yaml").write_text(BUILD)
    Path("run.yaml").write_text(RUN.replace("Command: c, ", "").replace("Author: Heart-Team\n", ""))
    assert swarm("task", "check", "build.yaml") == ExitCode.OK
    assert capsys.readouterr().out == (
        "build.yaml: MAKE_USER_CONTAINER build after ROOTTASK, leaves user-env-1.0; a body of 1 line, 59 bytes\n"
    )
    assert swarm("task", "check", "build.yaml", "run.yaml") == ExitCode.CONFIGURATION
    assert capsys.readouterr().err.splitlines() == [
        "ERROR run.yaml line 1, Author: expected a value, it is missing",
        "ERROR run.yaml line 5, Body.Command: expected a value, it is missing",
    ]
    assert swarm("task", "check", "none.yaml") == ExitCode.CONFIGURATION


def test_sw37_the_hash_that_a_task_will_have_is_told(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("build.yaml").write_text(BUILD)
    hashes = []
    for creator in (LEAD, LEAD, LEAD.replace("lead", "other")):
        assert swarm("task", "check", "build.yaml", "--creator", creator) == ExitCode.OK
        hashes.append(capsys.readouterr().out.splitlines()[1].removeprefix("  hash "))
    assert len(bytes.fromhex(hashes[0])) == 32
    assert hashes[0] == hashes[1] != hashes[2]
    assert swarm("task", "check", "build.yaml", "--creator", "lead") == ExitCode.CONFIGURATION


def test_sw37_a_secret_in_a_task_is_warned_of(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = "Body: {OrgAndReg: r, RepoName: n, Tag: t, Auth: {Username: u, Password: p}}\n"
    text = BUILD.replace("MAKE_USER_CONTAINER", "PULL_IMAGE").split("Body")[0] + body
    Path("pull.yaml").write_text(text)
    assert swarm("task", "check", "pull.yaml") == ExitCode.OK
    assert capsys.readouterr().err.startswith("WARNING pull.yaml: Body.Auth.Password will stand on the ledger")


# --- policies -------------------------------------------------------------------------------------------------------


POLICY = """\
version: 1
rules:
- name: builds
  organisations: [cleveland.example]
  types: [MAKE_USER_CONTAINER]
  images: ["python:3.*"]
- name: study
  hashes: [HASH]
  images: ["user-env-*"]
  private_data: true
  hours: 18:00-24:00
"""


def write_policy(base: Path, text: str) -> Path:
    path = base / "policy.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_sw37_what_a_policy_would_make_of_tasks_is_told(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("build.yaml").write_text(BUILD)
    Path("run.yaml").write_text(RUN)
    swarm("task", "check", "run.yaml", "--creator", LEAD)
    digest = capsys.readouterr().out.splitlines()[1].removeprefix("  hash ")
    write_policy(base, POLICY.replace("HASH", digest))

    def check(*words: str) -> list[str]:
        assert swarm("policy", "check", "policy.yaml", *words) == ExitCode.OK
        return capsys.readouterr().out.splitlines()

    (only,) = check()
    assert only.startswith("policy.yaml: 2 rules, a person is asked where none allows a task; SHA-256 ")
    both = ["--task", "build.yaml", "--task", "run.yaml"]
    assert check(*both, "--creator", LEAD, "--at", "2026-03-02T20:00")[1:] == [
        "build.yaml at Mon 20:00: ALLOW: rule 'builds' of the policy allows it",
        "run.yaml at Mon 20:00: ALLOW: rule 'study' of the policy allows it",
    ]
    asked = check(*both, "--creator", LEAD, "--at", "2026-03-02T12:00")[2]
    assert asked.startswith("run.yaml at Mon 12:00: ASK: a person has to decide")
    assert asked.endswith("but for the time")
    assert check(*both[2:], "--creator", LEAD, "--at", "2026-03-02T20:00")[1].endswith("but for its image")
    without_hash = check(*both, "--organisation", "cleveland.example", "--at", "2026-03-02T20:00")
    assert ": ALLOW: " in without_hash[1]
    assert without_hash[2].endswith("but for its hash")
    assert (
        "build.yaml at Mon 20:00: DENY: it is cleveland.example's, and nothing keeps its"
        in check(*both, "--creator", LEAD, "--no-sandbox", "--at", "2026-03-02T20:00")[1]
    )
    own = check(*both, "--creator", LEAD, "--no-sandbox", "--own", "cleveland.example", "--at", "2026-03-02T20:00")
    assert ": ALLOW: " in own[1]


def test_sw37_private_data_is_that_of_the_profile_if_one_is_given(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run.yaml").write_text(RUN)
    write_policy(base, "version: 1\nrules: [{name: r, types: RUN_SWARM}]\n")
    words = ["policy", "check", "policy.yaml", "--task", "run.yaml", "--organisation", "b.example"]
    assert swarm(*words) == ExitCode.OK
    assert capsys.readouterr().out.endswith("it would read private data; 'r' comes nearest, but for private data\n")
    profile(base, node(0, "sl-1"))
    assert swarm(*words, "--profile", "profile.yaml") == ExitCode.OK
    assert ": ALLOW: " in capsys.readouterr().out


def test_sw37_a_policy_that_cannot_be_used_is_told(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_policy(base, "version: 2\nask: x\n")
    assert swarm("policy", "check", "policy.yaml") == ExitCode.CONFIGURATION
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "ERROR policy.yaml line 1, version",
        "ERROR policy.yaml line 2, ask",
    ]
    path.write_text("version: 1\n")
    path.chmod(0o666)
    assert swarm("policy", "check", "policy.yaml") == ExitCode.CONFIGURATION
    assert "others can write it" in capsys.readouterr().err
    path.chmod(0o600)
    Path("run.yaml").write_text(RUN)
    assert swarm("policy", "check", "policy.yaml", "--task", "run.yaml") == ExitCode.CONFIGURATION
    assert "--task: expected --creator or --organisation as well" in capsys.readouterr().err
    Path("run.yaml").write_text("x")
    words = ["--task", "run.yaml", "--organisation", "b.example"]
    assert swarm("policy", "check", "policy.yaml", *words) == ExitCode.CONFIGURATION
    assert "ERROR run.yaml line 1: expected a mapping" in capsys.readouterr().err
    assert swarm("policy", "check", "policy.yaml", *words, "--own", "B!") == ExitCode.CONFIGURATION


def test_sw24_what_is_for_containers_alone_is_told_where_peers_are_processes(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = node(
        0,
        "sl-1",
        "usrlabels: {team: heart}",
        "usrcontaineropts: [gpus: all, ipc: host]",
        "usrnetworkopts: [ip: 10.0.0.9]",
    )
    text = f"groupname: demo\nnetwork: bridge\nnodes:\n{more}"
    (base / "profile.yaml").write_text(text)
    swarm("profile", "check", base / "profile.yaml")
    assert "for containers" not in capsys.readouterr().out
    (base / "profile.yaml").write_text("resourcemgr: {mgrtype: PROCESS}\n" + text)
    swarm("profile", "check", base / "profile.yaml")
    told = capsys.readouterr()
    words = told.out + told.err
    assert "usrnetworkopts, usrlabels, usrcontaineropts ipc: for containers, and peers are processes" in words
