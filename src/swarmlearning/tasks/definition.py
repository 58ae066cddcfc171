"""A task definition file: its header, and its body as the ledger's lines and as records.

Spec: docs/spec/swci-tasks.md, CI-50 to CI-52; for people: docs/reference/tasks.md.
"""

from typing import Final

import msgspec
import yaml

from swarmlearning.contracts.task_records import MAX_FIELD, MAX_LINE, MAX_LINES, MAX_TASK_BYTES, ROOT_TASK, TaskType
from swarmlearning.tasks.bodies import Body, Credentials, PullImage, read_body, read_tree
from swarmlearning.tasks.documents import read_document
from swarmlearning.tasks.faults import Fault, Faulty
from swarmlearning.tasks.fields import Fields, tell
from swarmlearning.tasks.trees import walk_texts, write_lines
from swarmlearning.types import TaskName, check_task_name

KIND_NAMES: Final[dict[str, TaskType]] = {
    **{kind.value: kind for kind in TaskType if kind is not TaskType.ROOT_TASK},
    # One page of the product's documentation calls it so.
    "BUILD_SWARM": TaskType.MAKE_USER_CONTAINER,
}
"""What may stand for a task's type."""

_KNOWN: Final = ("Name", "TaskType", "Author", "Prereq", "Outcome", "Body")


_READABLE: Final = (
    "Body.Auth.Password will stand on the ledger, where every member reads it and nobody can remove it; let Auth name "
    "a file on the agents' hosts instead"
)


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """A task as a file defines it."""

    name: TaskName
    kind: TaskType
    author: str
    prereq: TaskName
    outcome: str
    lines: tuple[str, ...]
    """Its body, as the ledger holds it."""
    body: Body
    """What the lines say."""
    warnings: tuple[str, ...] = ()
    """What people should think about before the task goes on the ledger."""


def read_definition(data: bytes, source: str) -> Definition | Faulty:
    """What a file defines, or all that is wrong in it; `source` is what people call the file."""
    return read_document(data, source, _read_fields, empty=f"the file is empty; expected {', '.join(_KNOWN)}")


def _read_fields(root: yaml.Node, faults: list[Fault]) -> Definition | None:
    fields = Fields(faults, root, "", _KNOWN)
    name = fields.name("Name", check_task_name)
    kind = KIND_NAMES.get(fields.choice("TaskType", tuple(KIND_NAMES)))
    author = fields.text("Author", most=MAX_FIELD)
    prereq = fields.name("Prereq", check_task_name, ROOT_TASK)
    outcome = fields.text("Outcome", most=MAX_FIELD)
    node = fields.find("Body", required=True)
    if node is None or kind is None:
        return None
    body = read_tree(kind, node, faults)
    lines = None if faults else _write_body(kind, node, body, faults)
    if body is None or lines is None or name is None or prereq is None:
        return None
    return Definition(
        name=name,
        kind=kind,
        author=author,
        prereq=prereq,
        outcome=outcome,
        lines=lines,
        body=body,
        warnings=tuple(_find_secrets(body)),
    )


def _write_body(kind: TaskType, node: yaml.Node, body: Body | None, faults: list[Fault]) -> tuple[str, ...] | None:
    """The body's lines, if the ledger takes them and they say the same."""
    lines = write_lines(node)
    if lines is None or read_body(kind, lines, "body") != body:
        longest, path = max(walk_texts(node, "Body"), key=lambda found: _longest_word(found[0].value))
        size = _longest_word(longest.value)
        tell(faults, longest, path, f"{size} characters without a blank; a line of a body has at most {MAX_LINE}")
        return None
    size = sum(len(line.encode()) + 1 for line in lines)
    if len(lines) > MAX_LINES or size > MAX_TASK_BYTES:
        most = f"expected at most {MAX_LINES} lines of {MAX_TASK_BYTES} bytes in all"
        tell(faults, node, "Body", f"{len(lines)} lines of {size} bytes in all; {most}")
        return None
    return lines


def _longest_word(text: str) -> int:
    return max(map(len, text.split(" ")))


def _find_secrets(body: Body) -> list[str]:
    if isinstance(body, PullImage) and isinstance(body.auth, Credentials) and body.auth.password:
        return [_READABLE]
    return []
