"""Profiles of agents: the product's files as they are, and how a person is told what is wrong. Rules SW-20 to SW-23."""

from pathlib import Path

import profile_files
import pytest

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.placeholders import parse_settings
from swarmlearning.swop.profile import Attribute, IdentityPart, ManagerKind, Option, PrivateData, Profile
from swarmlearning.swop.profile_file import load_profile, read_profile
from swarmlearning.tasks.faults import Faulty
from swarmlearning.types import DEFAULT_RUNNER, Endpoint

SET = {"CURRENT-PATH": "/opt/swarm"}


def read(text: str, settings: dict[str, str] | None = None, directory: str = "/d") -> Profile:
    found = read_profile(text.encode(), "p.yaml", settings or {}, directory=directory)
    assert isinstance(found, Profile), found.lines()
    return found


def faults(text: str, settings: dict[str, str] | None = None, directory: str = "/d") -> list[str]:
    found = read_profile(text.encode(), "p.yaml", settings or {}, directory=directory)
    assert isinstance(found, Faulty)
    assert all(line.isprintable() and len(line) < 700 for line in found.lines())
    return [line.removeprefix("p.yaml ") for line in found.lines()]


def least(*lines: str) -> str:
    """The smallest profile with lines before its nodes."""
    return profile_files.LEAST.replace("nodes:", "\n".join([*lines, "nodes:"]))


def node(*lines: str) -> str:
    """The smallest profile with lines in its node."""
    return profile_files.LEAST + "".join(f"    {line}\n" for line in lines)


# --- files of the product's shapes ----------------------------------------------------------------------------------


def test_sw21_a_profile_in_the_products_shape_is_read() -> None:
    found = read(profile_files.TWO, SET)
    assert (found.group, found.runners, found.policy) == ("heart", (DEFAULT_RUNNER,), None)
    assert (found.manager, found.network) == (ManagerKind.DOCKER, "ward-net")
    assert found.sn == Endpoint(host="sn.hospital-a.example", port=30304)
    assert found.environment == (("SL_LOG_LEVEL", "INFO"), ("http_proxy", None))
    assert found.warnings == ("line 14, apls: has no effect; there are no licences",)
    first = found.nodes[0]
    assert (first.idx, first.line, first.sl_hostname, first.sl_host_ip, first.sl_port) == (0, 25, "sl1", "sl1", 30305)
    assert first.private_data == PrivateData(source="/opt/swarm/user1/data-and-scratch", kind="BIND")
    assert [attribute.part for attribute in first.identity] == ["KEY", "CERT", "CAPATH"]
    assert first.identity[0] == Attribute(
        part=IdentityPart.KEY, kind="BIND", source="/opt/swarm/cert/sl-1-key.pem", target="/swarm-cert/sl-key.pem"
    )
    assert (first.program_hostname, first.program_environment, first.program_options) == ("user1", (), ())


def test_sw21_every_field_of_a_node_is_read() -> None:
    second = read(profile_files.TWO, SET).nodes[1]
    assert (second.idx, second.sl_host_ip, second.sl_port, second.sl_fs_service) == (1, "192.0.2.7", 16000, None)
    assert second.identity[1] == Attribute(
        part=IdentityPart.CERT,
        kind="VOLUME",
        source="certs",
        target="/swarm-cert/cert.pem",
        sub_path="sl-2/cert.pem",
    )
    assert second.sl_environment == (("SL_LOG_LEVEL", "DEBUG"), ("swarm_node_type", "sl"))
    assert second.sl_labels == (("tier", "learning"), ("note", ""))
    assert (second.sl_network_ip, second.program_network_ip) == ("172.20.0.7", "172.20.0.8")
    assert second.program_environment == (("HIP_VISIBLE_DEVICES", "0"), ("SCRATCH_DIR", "user2"))
    assert second.program_labels == (("reads-data", ""), ("gpu", ""))
    assert second.private_data is None
    assert second.program_options == (
        Option(name="device", value="/dev/kfd", line=91),
        Option(name="device", value="/dev/dri", line=91),
        Option(name="privileged", value="True", line=92),
        Option(name="gpus", value="device=6,7", line=93),
    )


def test_sw21_what_may_be_left_out_has_a_default() -> None:
    found = read(profile_files.LEAST)
    assert (found.runners, found.policy, found.manager) == ((DEFAULT_RUNNER,), None, None)
    assert (found.network, found.sn, found.environment, found.dns, found.warnings) == (None, None, (), (), ())
    (only,) = found.nodes
    assert (only.sl_host_ip, only.sl_port, only.private_data, only.program_options) == (None, 30305, None, ())


NOTHING = [
    "taskrunner: ~",
    "policyuri: ~",
    "resourcemgr: ~",
    "resourcemgr: {mgrtype: ~, accessinfo: ~}",
    "resourcemgr: {accessinfo: {accesstype: ~}}",
    "resourcemgr: {accessinfo: {accesstype: FROMENV}}",
    "network: ~",
    "apls: ~",
    "apisrv: ~",
    "apisrv: {locator: ~}",
    "apisrv: {locator: {host: ~, port: ~, service: ~}}",
    "envvars: ~",
    "envvars: []",
    "dns: ~",
]


@pytest.mark.parametrize("line", NOTHING)
def test_sw21_nothing_means_left_out(line: str) -> None:
    assert read(least(line)).nodes[0].line == 4
    assert read(profile_files.LEAST) == read(profile_files.LEAST + line + "\n")


FIELDS = "slhostname slhostip slport slfsservice privatedata slenvvars sllabels slnetworkopts usrhostname usrenvvars"


@pytest.mark.parametrize("key", [*FIELDS.split(), "usrlabels", "usrnetworkopts", "usrcontaineropts"])
def test_sw21_nothing_in_a_node_means_left_out(key: str) -> None:
    assert read(profile_files.LEAST) == read(node(f"{key}: ~"))


def test_sw21_what_may_be_written_in_more_than_one_way() -> None:
    assert read(least("taskrunner: other")).runners == ("other",)
    assert read(least("taskrunner: [a, b]")).runners == ("a", "b")
    assert read(least("envvars: {A: 1, B: on}")).environment == (("A", "1"), ("B", "on"))
    assert read(least("envvars: [A: 1, {B: on}]")).environment == (("A", "1"), ("B", "on"))
    assert read(least("dns: 192.0.2.53")).dns == read(least("dns: [192.0.2.53]")).dns == ("192.0.2.53",)
    assert read(node("usrcontaineropts: {gpus: all}")).nodes[0].program_options[0].value == "all"
    assert read(node("sllabels: [a: 1, b: ~]")).nodes[0].sl_labels == (("a", "1"), ("b", ""))
    assert read(node("slnetworkopts: {ip: 192.0.2.9}")).nodes[0].sl_network_ip == "192.0.2.9"
    assert read(node("privatedata: {src: ~, mType: ~}")).nodes[0].private_data is None
    assert read(node("slport: 0")).nodes[0].sl_port == 0
    for kind in ManagerKind:
        assert read(least(f"resourcemgr: {{mgrtype: {kind}}}")).manager is kind


def test_sw21_where_an_sn_is() -> None:
    def sn(locator: str) -> Endpoint | None:
        return read(least(f"apisrv: {{locator: {locator}}}")).sn

    assert sn("{host: sn1}") == Endpoint(host="sn1", port=30304)
    assert sn("{host: '2001:db8::1', port: 443}") == Endpoint(host="2001:db8::1", port=443)
    assert sn("{host: ~, service: 'api.sn.example:443'}") == Endpoint(host="api.sn.example", port=443)
    both = read(least("apisrv: {locator: {host: sn1, service: api.sn.example}}"))
    assert both.sn == Endpoint(host="api.sn.example", port=30304)
    assert both.warnings == ("line 2, apisrv.locator.host: has no effect, since there is a service",)


def test_sw20_a_key_given_twice_with_the_same_value_is_let_pass() -> None:
    # A page of the product's documentation has such a profile.
    assert read(node("slenvvars: null", "usrenvvars: {A: 1}", "slenvvars: ~")) == read(node("usrenvvars: {A: 1}"))
    assert read(node("usrenvvars: {A: 1}", "usrenvvars: {A: 1}")) == read(node("usrenvvars: {A: 1}"))
    (told,) = faults(node("usrenvvars: {A: 1}", "usrenvvars: {A: '2'}"))
    assert told.startswith("line 10, nodes[1].slnodedef.usrenvvars: given twice, first on line 9")
    (told,) = faults(node("slport: 1", "slport: 2"))
    assert told == "line 10, nodes[1].slnodedef.slport: given twice, first on line 9; expected it once"


def test_sw21_nodes_come_in_the_order_of_their_numbers() -> None:
    other = (
        profile_files.LEAST.split("nodes:\n")[1].replace("idx: 0", "idx: 7").replace("idx: 7", "idx: 7\n    slport: 5")
    )
    text = profile_files.LEAST.replace("nodes:\n", "nodes:\n" + other)
    assert [(found.idx, found.line) for found in read(text).nodes] == [(0, 10), (7, 3)]


# --- placeholders ---------------------------------------------------------------------------------------------------


def test_sw22_placeholders_are_replaced_anywhere_and_once() -> None:
    text = node("slhostip: <IP>", 'usrenvvars: {A: "<a>-<IP>-<B>", C: "<c>"}', "slport: <PORT>")
    found = read(text, {"IP": "192.0.2.1", "a": "<B>", "B": "$&", "PORT": "7"}).nodes[0]
    assert (found.sl_host_ip, found.sl_port) == ("192.0.2.1", 7)
    assert found.program_environment == (("A", "<B>-192.0.2.1-$&"), ("C", "<c>"))


def test_sw22_a_placeholder_that_is_left_is_one_fault_that_names_the_option() -> None:
    told = faults(profile_files.TWO, {})
    why = "(4 times) has no value; give it with --set CURRENT-PATH=VALUE, or write it out"
    where = "line 31, nodes[1].slnodedef.identity[1].attribute.src"
    assert told == [f"{where}: the placeholder <CURRENT-PATH> {why}"]


def test_sw22_a_placeholder_that_is_left_once_is_not_counted() -> None:
    (told,) = faults(node("slhostip: <IP>"))
    assert told.startswith(
        "line 9, nodes[1].slnodedef.slhostip: the placeholder <IP> has no value; give it with --set IP"
    )


def test_sw22_what_has_no_effect_may_keep_its_placeholders_and_a_value_for_nothing_is_told() -> None:
    found = read(profile_files.TWO, SET | {"CURENT-PATH": "/x"})
    assert "--set CURENT-PATH: there is no <CURENT-PATH> in the profile" in found.warnings
    assert not any("LICENCES" in line for line in found.warnings)


def test_sw22_settings_are_given_as_name_and_value() -> None:
    assert parse_settings(("A=b=c", "<X-1>=")) == {"A": "b=c", "X-1": ""}
    for text, why in (("A", "expected NAME=VALUE"), ("=x", "expected NAME=VALUE"), ("A=\x1b", "cannot be printed")):
        with pytest.raises(ConfigurationError, match=why):
            parse_settings((text,))
    with pytest.raises(ConfigurationError, match="--set A: given twice"):
        parse_settings(("A=1", "A=1"))


# --- what is wrong --------------------------------------------------------------------------------------------------


TOP = [
    ("groupname: a b", "expected 1-40 characters of A-Z a-z 0-9 . _ -, since it stands in names, got 'a b'"),
    ("groupname: ~", "groupname: expected a value, got nothing (~)"),
    ("taskrunner: [a, a]", "taskrunner[2]: the taskrunner 'a' given twice"),
    ("taskrunner: [a b]", "taskrunner[1]: taskrunner name 'a b': expected 1-128 characters"),
    ("taskrunner: []", "taskrunner: expected at least one entry"),
    ("policyuri: https://x/y", "policyuri: expected a path of this host, also as file:///..., got 'https://x/y'"),
    ("policyuri: 'file://elsewhere/etc/p.yaml'", "policyuri: expected a path of this host"),
    ("policyuri: 'file:p.yaml'", "policyuri: expected a path of this host"),
    ("policyuri: ~/p.yaml", "policyuri: expected a path without ~"),
    ("resourcemgr: {mgrtype: KUBERNETES}", "resourcemgr.mgrtype: expected PROCESS or DOCKER or PODMAN, got 'KUBERN"),
    ("resourcemgr: {accessinfo: {accesstype: SSH}}", "accessinfo.accesstype: expected FROMENV, got 'SSH'"),
    ("network: /etc", "network: expected a container network's name, got '/etc'"),
    ("apisrv: {locator: {host: 'sn 1'}}", "apisrv.locator.host: expected a host's name or an IP address, got 'sn 1'"),
    ("apisrv: {locator: {host: sn1, port: 70000}}", "apisrv.locator.port: expected a number from 1 to 65535"),
    ("apisrv: {locator: {service: 'a:b'}}", "apisrv.locator.service: address 'a:b': expected host:port"),
    ("apisrv: {locator: {service: '-x'}}", "apisrv.locator.service: expected a host's name with or without a port"),
    ("envvars: [A]", "envvars[1]: expected NAME: value, got 'A'"),
    ("dns: [dns.example]", "dns[1]: expected an IP address, got 'dns.example'"),
    ("policyur: x", "policyur: unknown field; expected groupname, taskrunner, policyuri,"),
]


@pytest.mark.parametrize(("line", "expected"), TOP)
def test_sw21_a_wrong_field_is_told_by_line(line: str, expected: str) -> None:
    text = profile_files.LEAST.replace("groupname: demo", line) if "groupname" in line else least(line)
    (told,) = faults(text)
    assert told.startswith(f"line {1 if 'groupname' in line else 2}, ")
    assert expected in told


NODE = [
    ("slhostname: 'a b'", "slhostname: expected a host's name"),
    ("slhostip: $(id)", "slhostip: expected a host's name or an IP address, got '$(id)'"),
    ("slport: 65536", "slport: expected a number from 0 to 65535, got '65536'"),
    ("slport: 0x10", "slport: expected a number from 0 to 65535, got '0x10'"),
    ("slfsservice: 'x y'", "slfsservice: host 'x y': expected a DNS name"),
    ("privatedata: {src: data}", "privatedata.mType: expected a value, it is missing"),
    ("privatedata: {src: /data, mType: VOLUME}", "privatedata.src: expected a volume's name of 1-128 characters"),
    ("privatedata: {src: .., mType: VOLUME}", "privatedata.src: expected a volume's name of 1-128 characters"),
    ("privatedata: {src: ~/data, mType: BIND}", "privatedata.src: expected a path without ~"),
    ("privatedata: /data", "privatedata: expected a mapping with src, mType, got '/data'"),
    ("sllabels: {a: [b]}", "sllabels.a: expected a name and a text, got a list"),
    ("sllabels: [a: 1, a: 2]", "sllabels[2].a: given twice"),
    ("slnetworkopts: [ip: 192.0.2.300]", "slnetworkopts[1].ip: expected an IP address, got '192.0.2.300'"),
    ("slnetworkopts: [ip: 192.0.2.3, ip: 192.0.2.4]", "slnetworkopts: the option ip given more than once"),
    ("slnetworkopts: [mac: x]", "slnetworkopts[1].mac: unknown field; expected ip"),
    ("usrcontaineropts: [gpus: ~]", "usrcontaineropts[1].gpus: expected text, got nothing (~)"),
    ("usrcontaineropts: [device: [[a]]]", "usrcontaineropts[1].device[1]: expected text, got a list"),
    ("usrenvvars: [A B: 1]", "usrenvvars[1]: the variable 'A B'; expected a name without blanks and ="),
    ("slhostnam: x", "slnodedef.slhostnam: unknown field; expected idx, identity,"),
]


@pytest.mark.parametrize(("line", "expected"), NODE)
def test_sw21_a_wrong_field_of_a_node_is_told_by_line(line: str, expected: str) -> None:
    (told,) = faults(node(line))
    assert told.startswith("line 9, nodes[1].slnodedef")
    assert expected in told


KEY = "{aType: KEY, mType: BIND, src: k.pem, tgt: /k.pem}"
IDENTITY = [
    (KEY, "{aType: KEY, mType: BIND, src: k.pem, tgt: k.pem}", "tgt: expected a path that begins with / and is with"),
    (KEY, "{aType: KEY, mType: BIND, src: k.pem, tgt: /a/../k}", "tgt: expected a path that begins with / and is with"),
    (KEY, "{aType: KEY, mType: BIND, src: k, tgt: /k, subPath: /x}", "subPath: expected a path that stays within the"),
    (KEY, "{aType: KEY, mType: BIND, src: k, tgt: /k, subpath: a/../..}", "subpath: expected a path that stays within"),
    (KEY, "{aType: KEY, mType: BIND, src: k, tgt: /k, subPath: a, subpath: b}", "subpath: not the same as subPath"),
    (KEY, "{aType: KEY, mType: COPY, src: k, tgt: /k}", "mType: expected BIND or VOLUME, got 'COPY'"),
    (KEY, "{aType: PASSWORD, mType: BIND, src: k, tgt: /k}", "aType: expected KEY or CERT or CACERT or CAPATH or SPIF"),
    (KEY, "{aType: CERT, mType: BIND, src: k, tgt: /k}", "identity: aType CERT given more than once"),
    (KEY, "{aType: KEY, mType: BIND, src: k.pem, tgt: /c.pem}", "identity: the tgt '/c.pem' given more than once"),
    (
        KEY,
        "{aType: SPIFFE_SOCKETPATH, mType: BIND, src: /run/agent.sock, tgt: /agent.sock}",
        "attribute.aType: SPIFFE_SOCKETPATH: an identity from a SPIFFE agent arrives in a later release; name files",
    ),
]


def test_sw21_what_a_node_needs_is_told_where_it_is_missing() -> None:
    assert faults("groupname: demo\nnodes: [{}]\n") == ["line 2, nodes[1].slnodedef: expected a value, it is missing"]
    (told,) = faults(profile_files.LEAST.replace("idx: 0", "slport: 1"))
    assert told == "line 4, nodes[1].slnodedef.idx: expected a value, it is missing"
    (told,) = faults(profile_files.LEAST.replace("attribute: " + KEY, "attribute: ~"))
    where = "nodes[1].slnodedef.identity[1].attribute"
    assert told == f"line 6, {where}: expected a value, got nothing (~)"


def test_sw21_at_most_32_taskrunners() -> None:
    names = [f"r{number}" for number in range(33)]
    assert len(read(least(f"taskrunner: [{', '.join(names[:32])}]")).runners) == 32
    (told,) = faults(least(f"taskrunner: [{', '.join(names)}]"))
    assert told == "line 2, taskrunner: 33 taskrunners; expected at most 32"


@pytest.mark.parametrize(("old", "new", "expected"), IDENTITY)
def test_sw23_a_wrong_identity_is_told(old: str, new: str, expected: str) -> None:
    told = faults(profile_files.LEAST.replace(old, new))
    assert expected in told[0]
    # A second certificate is one too many, and there is no key then.
    assert len(told) == (2 if "aType: CERT" in new else 1)


def test_sw23_an_identity_has_a_key_a_certificate_and_authorities() -> None:
    lines = profile_files.LEAST.splitlines()
    for number, missing in ((5, "KEY"), (6, "CERT"), (7, "CACERT or CAPATH")):
        text = "\n".join(line for at, line in enumerate(lines) if at != number)
        (told,) = faults(text)
        assert told == (
            f"line 6, nodes[1].slnodedef.identity: expected an attribute with aType {missing}, it is missing"
        )
    (told,) = faults("groupname: demo\nnodes: [slnodedef: {idx: 0}]\n")
    assert told == "line 2, nodes[1].slnodedef.identity: expected a value, it is missing"


def test_sw23_paths_begin_at_the_profiles_directory() -> None:
    assert read(profile_files.LEAST, directory="/etc/swop").nodes[0].identity[0].source == "/etc/swop/k.pem"
    assert read(least("policyuri: p.yaml"), directory="/etc/swop").policy == "/etc/swop/p.yaml"
    assert read(least("policyuri: file:///etc/a%20b.yaml")).policy == "/etc/a b.yaml"
    told = faults(profile_files.LEAST, directory="")
    assert told[0].endswith("attribute.src: expected a path that begins with /, got 'k.pem'")


def two(first: str, second: str, *top: str) -> str:
    body = profile_files.LEAST.split("nodes:\n")[1]
    nodes = body + f"    {first}\n" + body.replace("idx: 0", "idx: 1") + f"    {second}\n"
    return "\n".join(["groupname: demo", *top, "nodes:", nodes])


CLASHES = [
    ("slport: 5", "slport: 5", "resourcemgr: {mgrtype: PROCESS}", "port 5 of this host"),
    ("slport: ~", "slport: 30305", "resourcemgr: {mgrtype: PROCESS}", "port 30305 of this host"),
    ("slhostip: h1", "slhostip: H1", "dns: ~", "H1 port 30305"),
    ("slfsservice: fs.example", "slfsservice: 'FS.example:30305'", "dns: ~", "'FS.example:30305'"),
]


@pytest.mark.parametrize(("first", "second", "top", "where"), CLASHES)
def test_sw23_two_sls_at_one_place_are_a_fault(first: str, second: str, top: str, where: str) -> None:
    (told,) = faults(two(first, second, top))
    why = f"its SL is reached at {where}, as that on line 4 is; give it another slport"
    assert told == f"line 11, nodes[2].slnodedef: {why}"


def test_sw23_sls_at_different_places_are_none() -> None:
    process = "resourcemgr: {mgrtype: PROCESS}"
    assert len(read(two("slport: 5", "slport: 6", process)).nodes) == 2
    assert len(read(two("slport: 0", "slport: 0", process)).nodes) == 2
    assert len(read(two("slhostip: h1", "slhostip: h2", process)).nodes) == 2
    assert len(read(two("slhostip: ~", "slhostip: ~")).nodes) == 2  # containers may have addresses of their own


def test_sw23_a_number_given_to_two_nodes_is_a_fault() -> None:
    (told,) = faults(two("slport: 5", "slport: 6").replace("idx: 1", "idx: 0"))
    assert told == "line 10, nodes[2].slnodedef.idx: 0 again, first on line 3; expected another number"


def test_sw20_all_faults_are_told_in_the_order_of_the_file() -> None:
    text = profile_files.TWO.replace("mgrtype    : DOCKER", "mgrtype: X").replace("slport     : 16000", "slport: x")
    told = faults(text.replace("groupname  : heart", "groupnam: heart"), {})
    assert [line.split(":")[0] for line in told] == [
        "line 5, groupnam",
        "line 5, groupname",
        "line 9, resourcemgr.mgrtype",
        "line 31, nodes[1].slnodedef.identity[1].attribute.src",
        "line 77, nodes[2].slnodedef.slport",
    ]


def test_sw20_at_most_64_nodes() -> None:
    body = profile_files.LEAST.split("nodes:\n")[1]
    nodes = [body.replace("idx: 0", f"idx: {n}\n    slport: {n + 1}") for n in range(65)]
    assert len(read("groupname: demo\nnodes:\n" + "".join(nodes[:64])).nodes) == 64
    (told,) = faults("groupname: demo\nnodes:\n" + "".join(nodes))
    assert told.endswith("nodes[65]: 65 nodes; an agent has at most 64")


def test_sw20_a_file_is_read_in_its_directory_and_all_faults_are_one_error(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(profile_files.LEAST)
    assert load_profile(path).nodes[0].identity[0].source == str(tmp_path / "k.pem")
    path.write_text("groupname: a b\nnodes: x\n")
    with pytest.raises(ConfigurationError) as caught:
        load_profile(path)
    assert str(caught.value).startswith(f"{path} line 1, groupname: expected 1-40")
    assert f"; {path} line 2, nodes: expected a list, got 'x'" in str(caught.value)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_profile(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["", "# nothing", "[]", "x", "- nodes: []", "nodes: [slnodedef: ~]", "nodes: [~]"])
def test_sw20_what_is_no_profile_is_refused(text: str) -> None:
    assert faults(text)
