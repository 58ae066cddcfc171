"""Files that nobody wrote: any bytes give a record or faults with lines that exist. Rules SW-20 and SW-25."""

from collections.abc import Callable
from datetime import datetime

import profile_files
import yaml
from decision_world import RUN, request
from hypothesis import event, given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlearning.swop.deciding import decide, find_missing
from swarmlearning.swop.matching import covers_image, covers_mount, covers_text, covers_url, normalise_path, parse_url
from swarmlearning.swop.policy import Policy, Rule, Verdict
from swarmlearning.swop.policy_file import read_policy
from swarmlearning.swop.profile import Profile
from swarmlearning.swop.profile_file import read_profile
from swarmlearning.swop.requesting import UNKNOWN, find_entrypoint, find_images, find_urls
from swarmlearning.tasks.bodies import MakeUserContainer
from swarmlearning.tasks.definition import Definition, read_definition
from swarmlearning.tasks.faults import Faulty

Record = Profile | Policy | Definition


def check(data: bytes, found: Record | Faulty) -> None:
    if not isinstance(found, Faulty):
        return
    assert found.faults
    lines = [fault.line for fault in found.faults]
    assert lines == sorted(lines)
    # YAML's lines end at more characters than an editor's do.
    assert all(1 <= line <= len(data.decode(errors="replace").splitlines()) + 1 for line in lines)
    assert all(fault.text for fault in found.faults)
    assert all(line.isprintable() and len(line) < 2000 for line in found.lines())


READERS: list[Callable[[bytes], Record | Faulty]] = [
    lambda data: read_profile(data, "fuzz", {"A": "<B>"}, directory="/d"),
    lambda data: read_policy(data, "fuzz"),
    lambda data: read_definition(data, "fuzz"),
]

POLICY = """\
version: 1
limits: {memory: 8GiB, run_time: 12h, cpus: 2.5}
rules:
- name: r
  images: [a, "b:*"]
  hours: Mon-Fri 18:00-06:00
  mounts: [/opt/x, v]
  urls: https://h.example/
  private_data: true
"""

KEYS = [
    *("groupname", "taskrunner", "policyuri", "resourcemgr", "network", "apls", "apisrv", "envvars", "dns", "nodes"),
    *("slnodedef", "idx", "identity", "attribute", "aType", "mType", "src", "tgt", "subPath", "subpath", "locator"),
    *("privatedata", "slport", "slhostip", "sllabels", "slnetworkopts", "usrcontaineropts", "usrenvvars", "mgrtype"),
    *("version", "rules", "name", "limits", "memory", "hours", "images", "mounts", "urls", "hashes", "private_data"),
    *("Name", "TaskType", "Body", "RUN_SWARM", "BuildSteps", "SharedContent"),
]
SIGNS = [
    *(": ", ":", "\n", "\n  ", "\n    ", "\n      ", "- ", "[", "]", "{", "}", ", ", "? ", "| ", "'", '"', "#", " #"),
    *("&a ", "*a", "!!str ", "!x ", "<<: ", "~", "null", "---\n", "...\n", "%YAML 1.1\n", "\t", "\\", "\u2028", "\x00"),
    *("KEY", "BIND", "/a", "../", "<A>", "<B>", "1", "-1", "1e9", "8GiB", "12h", "Mon-Fri", "18:00-06:00", "*"),
]


@given(st.binary(max_size=300))
def test_sw20_any_bytes_give_a_record_or_faults(data: bytes) -> None:
    for read in READERS:
        check(data, read(data))


@given(st.lists(st.sampled_from(KEYS + SIGNS), max_size=80))
def test_sw20_any_pieces_of_yaml_give_a_record_or_faults(pieces: list[str]) -> None:
    data = "".join(pieces).encode()
    for read in READERS:
        check(data, read(data))


@given(
    st.sampled_from([profile_files.TWO, profile_files.LEAST, POLICY]),
    st.integers(0, 5000),
    st.integers(0, 12),
    st.lists(st.sampled_from(KEYS + SIGNS), max_size=4),
)
def test_sw20_any_change_of_a_file_gives_a_record_or_faults(text: str, at: int, cut: int, pieces: list[str]) -> None:
    at %= len(text)
    data = (text[:at] + "".join(pieces) + text[at + cut :]).encode()
    for read in READERS:
        check(data, read(data))


SCALAR = st.none() | st.booleans() | st.integers() | st.sampled_from(SIGNS) | st.text(max_size=8)
TREE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(KEYS), TREE, max_size=6), st.dictionaries(st.sampled_from(KEYS), TREE, max_size=6)
)
def test_sw20_any_tree_of_known_fields_gives_a_record_or_faults(
    tree: dict[str, object], node: dict[str, object]
) -> None:
    whole = [
        tree,
        {"groupname": "g", "nodes": [{"slnodedef": {"idx": 0, **node}}], **tree},
        {"version": 1, "rules": [{"name": "r", **node}], **tree},
    ]
    for document in whole:
        data = yaml.safe_dump(document, allow_unicode=True).encode(errors="surrogatepass")
        for read in READERS:
            check(data, read(data))


# --- what is compared never raises, and allows no more than it should ------------------------------------------------


TEXT = st.text(st.sampled_from("ab*/.:@%2eE\\[]?#;\u0430 \n$-"), max_size=20)


@given(TEXT, TEXT)
def test_sw30_comparing_any_texts_ends(pattern: str, text: str) -> None:
    for covers in (covers_text, covers_image, covers_mount, covers_url):
        assert covers([pattern], text) in (True, False)
    if "*" not in pattern:
        assert covers_text([pattern], text) is (pattern == text)
    elif covers_image([pattern], text):
        assert covers_text([pattern], text)
        assert pattern.count("/") == text.count("/")


@given(TEXT, TEXT)
def test_sw31_a_covered_path_is_within_the_directory(directory: str, rest: str) -> None:
    mount = normalise_path("/" + directory)
    source = f"/{directory}{rest}"
    if mount is not None and covers_mount([mount], source):
        normal = normalise_path(source)
        assert normal is not None
        assert mount == "/" or (normal + "/").startswith(mount + "/")
        assert ".." not in normal.split("/")


HOST = [
    "ab.example",
    "ab.example",
    "AB.example",
    "a",
    ".",
    "@",
    ":443",
    ":80",
    "%2e",
    "evil.example",
    "\\",
    "\u3002",
    "",
]
PATH = ["a", "a", "/", "/", "..", "%2e", "%2F", ";", "//", "b", "\\", "?x", "#", "%61", ""]


PLACE = st.sampled_from(["ab.example", "AB.example:443"]) | st.lists(st.sampled_from(HOST), max_size=3).map("".join)


@given(PLACE, st.sampled_from(["a/", ""]), st.lists(st.sampled_from(PATH), max_size=4))
def test_sw32_a_covered_url_has_the_same_beginning(place: str, first: str, path: list[str]) -> None:
    covered = covers_url(["https://ab.example/a/"], url := f"https://{place}/{first}{''.join(path)}")
    event(f"covered: {covered}")
    if covered:
        parsed = parse_url(url)
        assert not isinstance(parsed, str)
        assert (parsed.scheme, parsed.host, parsed.port, parsed.path[0]) == ("https", "ab.example", 443, "a")
        assert not {"..", ".", ""} & set(parsed.path)
        assert place.lower() in ("ab.example", "ab.example:443")


LINE = st.text(st.sampled_from("FROM ascopy-=\\`\"',/:$#<\t\u00a0evil0"), max_size=24)


@given(
    st.lists(
        LINE | st.sampled_from(["FROM evil/x", "RUN \\", "FROM a AS b", "COPY --from=b x y", "ADD [", "# x"]),
        max_size=8,
    )
)
def test_sw29_any_recipe_can_be_looked_at(steps: list[str]) -> None:
    body = MakeUserContainer(build_steps=tuple(steps))
    images = find_images(body, None)
    find_urls(body)
    lines = [line.strip() for step in steps for line in step.split("\n")]
    # A line that says so plainly, after one that does not go on, is never missed.
    for before, line in zip(["", *lines], lines, strict=False):
        if line == "FROM evil/x" and not before.endswith("\\") and not before.startswith("#"):
            assert {"evil/x", UNKNOWN} & set(images)


RULE = st.builds(
    Rule,
    name=st.just("r"),
    organisations=st.sampled_from([(), ("other.example",), ("own.example",)]),
    tasks=st.sampled_from([(), ("heart_*",), ("x",)]),
    mounts=st.sampled_from([(), ("/",), ("v",)]),
    hashes=st.sampled_from([(), (b"\x01" * 32,)]),
    private_data=st.booleans(),
    network=st.booleans(),
)


@given(st.lists(RULE, max_size=4), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_sw34_a_task_is_allowed_only_for_a_reason(
    rules: list[Rule], ask: bool, unsandboxed: bool, isolated: bool, private: bool
) -> None:
    asked = request(replace(RUN, private_content="/data" if private else None), isolated=isolated)
    policy = Policy(digest=b"\x02" * 32, rules=tuple(rules), ask=ask, allow_unsandboxed=unsandboxed)
    now = datetime(2026, 3, 2, 22, 0)  # noqa: DTZ001 - local time
    found = decide(policy, asked, now)
    fitting = [
        rule for rule in rules if not find_missing(rule, asked, find_entrypoint(asked.body), find_urls(asked.body), now)
    ]
    if not isolated and not unsandboxed:
        assert found.verdict is Verdict.DENY
    elif fitting:
        assert (found.verdict, found.network) == (Verdict.ALLOW, fitting[0].network)
    else:
        assert found.verdict is (Verdict.ASK if ask else Verdict.DENY)
    assert bool(found.approved_by) is (found.verdict is Verdict.ALLOW)
