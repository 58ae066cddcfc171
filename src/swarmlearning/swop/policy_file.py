"""An institution's policy as a file, as records. Spec: docs/spec/swop-files.md, SW-25 to SW-28.

Does not decide anything; `deciding` does.
"""

import os
import re
import stat
from pathlib import Path
from typing import Final

import yaml
from msgspec.structs import replace

from swarmlearning.contracts.task_records import TaskType
from swarmlearning.encoding import sha256
from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.matching import explain_url, normalise_path
from swarmlearning.swop.policy import Limits, Policy, Rule, ShareLog
from swarmlearning.swop.policy_values import PolicyFields, read_hours
from swarmlearning.swop.values import is_volume
from swarmlearning.tasks.documents import read_document
from swarmlearning.tasks.faults import Fault, Faulty, show_text
from swarmlearning.tasks.fields import tell
from swarmlearning.tasks.trees import MAX_FILE_BYTES
from swarmlearning.types import TrustDomain, check_label

VERSION: Final = 1
"""Of the format."""

MAX_RULES: Final = 500
"""Most rules of a policy."""

MAX_RULE_NAME: Final = 60
"""Longest name of a rule, characters: it goes on the ledger with what the rule allowed."""

_KNOWN: Final = ("version", "ask", "allow_unsandboxed", "network", "share_log", "limits", "rules")
_LIMITS: Final = ("memory", "processes", "open_files", "cpus", "run_time", "content", "log")
_CONDITIONS: Final = (
    *("organisations", "authors", "tasks", "hashes", "types", "images", "entrypoints", "mounts", "urls", "hours"),
)
_RULE: Final = ("name", *_CONDITIONS, "private_data", "network")

_RUN_TYPES: Final = tuple(kind.value for kind in TaskType if kind is not TaskType.ROOT_TASK)
_TASK: Final = re.compile(r"[A-Za-z0-9._/*-]+")
_IMAGE: Final = re.compile(r"[A-Za-z0-9._/:@*-]+")
_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")


def load_policy(path: Path) -> Policy:
    """Read a policy's file, which nobody may be able to write but root and whoever runs this.

    Raises:
        ConfigurationError: it cannot be read, others can write it, or it has faults, all of which are told.
    """
    found = read_policy_file(path)
    if isinstance(found, Faulty):
        raise ConfigurationError("; ".join(found.lines()))
    return found


def read_policy_file(path: Path) -> Policy | Faulty:
    """What a policy's file says, or all that is wrong in it; directories that it names are followed where they lead.

    Raises:
        ConfigurationError: it cannot be read, or others can write it.
    """
    try:
        # Not as a regular file opens: a pipe would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            _check_rights(path, os.fstat(file.fileno()))
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"policy {path}: cannot be read ({error.strerror}); check policyuri") from error
    policy = read_policy(data, str(path))
    if isinstance(policy, Faulty):
        return policy
    return replace(policy, rules=tuple(replace(rule, mounts=_resolve(rule.mounts)) for rule in policy.rules))


def _check_rights(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(f"policy {path}: expected a file")
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(
            f"policy {path}: belongs to user {found.st_uid}, who can change it; expected root or user {os.geteuid()}; "
            f"run: chown root {path}"
        )
    if found.st_mode & 0o022:
        raise ConfigurationError(
            f"policy {path}: others can write it (mode {stat.S_IMODE(found.st_mode):04o}); run: chmod go-w {path}"
        )
    for parent in path.resolve().parents:
        mode = parent.stat().st_mode
        if mode & 0o002 and not mode & stat.S_ISVTX:
            raise ConfigurationError(
                f"policy {path}: every user can replace it, since {parent} has mode {stat.S_IMODE(mode):04o}; "
                f"run: chmod o-w {parent}"
            )


def _resolve(mounts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(os.path.realpath(mount) if mount.startswith("/") else mount for mount in mounts)


def read_policy(data: bytes, source: str) -> Policy | Faulty:
    """What a policy says, or all that is wrong in it; `source` is what people call it. Looks at no other file."""
    digest = sha256(data)
    return read_document(
        data,
        source,
        lambda root, faults: _read_fields(root, faults, digest),
        empty="the policy is empty; expected at least version: 1",
    )


def _read_fields(root: yaml.Node, faults: list[Fault], digest: bytes) -> Policy | None:
    fields = PolicyFields(faults, root, "", _KNOWN)
    fields.number("version", VERSION, VERSION, required=True)
    warnings: list[str] = []
    policy = Policy(
        digest=digest,
        rules=_read_rules(fields, faults, warnings),
        ask=fields.switch("ask", default=True),
        allow_unsandboxed=fields.switch("allow_unsandboxed", default=False),
        network=fields.switch("network", default=False),
        share_log=_read_share(fields),
        limits=_read_limits(fields, faults),
        warnings=tuple(warnings),
    )
    return None if faults else policy


def _read_share(fields: PolicyFields) -> ShareLog:
    if fields.find("share_log") is None:
        return ShareLog.STARTUP
    word = fields.choice("share_log", tuple(ShareLog))
    return ShareLog(word) if word else ShareLog.STARTUP


def _read_limits(fields: PolicyFields, faults: list[Fault]) -> Limits:
    node = fields.find("limits")
    if node is None:
        return Limits()
    inner = PolicyFields(faults, node, fields.path("limits"), _LIMITS)
    default = Limits()
    return Limits(
        memory=inner.size("memory", 1 << 20),
        processes=inner.number("processes", 1, 10_000_000),
        open_files=inner.number("open_files", 16, 10_000_000),
        cpus=inner.decimal("cpus", 0.01, 65_536),
        run_time_s=inner.duration("run_time"),
        content=inner.size("content", 0, default.content) or 0,
        log=inner.size("log", 1 << 10, default.log) or default.log,
    )


def _read_rules(fields: PolicyFields, faults: list[Fault], warnings: list[str]) -> tuple[Rule, ...]:
    items = fields.items("rules", required=False, empty=True)
    if len(items) > MAX_RULES:
        path, node = items[MAX_RULES]
        tell(faults, node, path, f"{len(items)} rules; a policy has at most {MAX_RULES}")
    found: dict[str, Rule] = {}
    for path, item in items[:MAX_RULES]:
        rule = _read_rule(item, path, faults)
        if rule.name and rule.name in found:
            tell(faults, item, path, f"the name {show_text(rule.name)} given to two rules; expected one for each")
        found[rule.name] = rule
        warnings += [f"rule {show_text(rule.name)} {text}" for text in _find_doubts(rule)]
    return tuple(found.values())


def _read_rule(item: yaml.Node, path: str, faults: list[Fault]) -> Rule:
    fields = PolicyFields(faults, item, path, _RULE)
    for key in _CONDITIONS:
        fields.refuse_nothing(key)
    mounts = fields.texts("mounts", _explain_mount)
    return Rule(
        name=_read_name(fields),
        organisations=tuple(TrustDomain(text) for text in fields.texts("organisations", _explain_domain)),
        authors=fields.texts("authors"),
        tasks=fields.texts("tasks", _explain_task),
        hashes=tuple(bytes.fromhex(text) for text in fields.texts("hashes", _explain_hash) if _HASH.fullmatch(text)),
        types=tuple(TaskType(text) for text in fields.texts("types", _explain_type) if text in _RUN_TYPES),
        images=fields.texts("images", _explain_image),
        entrypoints=fields.texts("entrypoints"),
        mounts=tuple(normalise_path(text) or text for text in mounts),
        urls=fields.texts("urls", explain_url),
        hours=read_hours(fields, "hours"),
        private_data=fields.switch("private_data", default=False),
        network=fields.switch("network", default=False),
    )


def _read_name(fields: PolicyFields) -> str:
    return fields.text("name", most=MAX_RULE_NAME)


def _explain_domain(text: str) -> str:
    try:
        check_label("organisation", text)
    except ConfigurationError as error:
        return str(error)
    return ""


def _explain_hash(text: str) -> str:
    if _HASH.fullmatch(text):
        return ""
    return f"expected the 64 hexadecimal digits of a task's hash, got {show_text(text)}"


def _explain_task(text: str) -> str:
    if _TASK.fullmatch(text):
        return ""
    return f"expected a task's name of A-Z a-z 0-9 . _ / -, with * for any of them, got {show_text(text)}"


def _explain_image(text: str) -> str:
    if _IMAGE.fullmatch(text):
        return ""
    return f"expected an image such as python:3.*, with * for any characters but /, got {show_text(text)}"


def _explain_type(text: str) -> str:
    return "" if text in _RUN_TYPES else f"expected {' or '.join(_RUN_TYPES)}, got {show_text(text)}"


def _explain_mount(text: str) -> str:
    if is_volume(text) or normalise_path(text) is not None:
        return ""
    return f"expected a directory that begins with / and is without .., or a volume's name, got {show_text(text)}"


def _find_doubts(rule: Rule) -> list[str]:
    doubts = []
    if rule.private_data and not rule.hashes:
        doubts.append(
            "allows private data without naming hashes: whoever can write such a task can read the data; name the "
            "hashes of tasks that you have read"
        )
    if rule.authors and not (rule.organisations or rule.hashes):
        doubts.append("trusts authors, which nobody verifies; name organisations or hashes, too")
    if rule.tasks and not (rule.organisations or rule.hashes):
        doubts.append("trusts tasks by their names, which any member may give; name organisations or hashes, too")
    if not any(getattr(rule, key) for key in _CONDITIONS):
        doubts.append("has no condition: it allows every task, of every member")
    return doubts
