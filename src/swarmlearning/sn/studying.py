"""What an SN answers about tasks, taskrunners and nodes, and what has changed. Spec: docs/spec/access.md, A-14 to A-16.

Lists come in pages, each as long as a reply may be; `sn.client` puts them together.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Final

from swarmlearning.clock import WallClock
from swarmlearning.contracts import approvals, membership, taskrunners, tasks
from swarmlearning.encoding import Record, decode, encode
from swarmlearning.ledger.boundary import LedgerView
from swarmlearning.sn.api import (
    CALL_PRESENCE,
    CALL_RUNNER,
    CALL_RUNNERS,
    CALL_TASK,
    CALL_TASKS,
    KEEPALIVE_S,
    STREAM_CHANGES,
    Presence,
    PresenceRequest,
    RunnersRequest,
    TasksRequest,
    WholeTask,
)
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.feed import Feed
from swarmlearning.sn.presence import PresenceBook
from swarmlearning.sn.state import Overlay
from swarmlearning.transport.api import Call, Caller, Frame, Stream
from swarmlearning.types import NodeId, NodeName, Role, RunnerName, TaskName, TrustDomain

PAGE_BYTES: Final = 900 << 10
"""Of one page of a list."""

Admit = Callable[..., None]


class Studying:
    """The calls and the stream for those who watch tasks and nodes."""

    def __init__(
        self,
        node: NodeName,
        app: SwarmApplication,
        ledger: LedgerView,
        clock: WallClock,
        presence: PresenceBook,
        admit: Admit,
        *,
        sentinel: Callable[[], NodeId],
        away: Callable[[], tuple[TrustDomain, ...]],
    ) -> None:
        """Answer as `node`.

        Args:
            node: this SN.
            app: committed state.
            ledger: tells what keeps this SN from following it.
            clock: this SN's.
            presence: whom it has heard of.
            admit: raises unless a caller is of the own organisation and of one of some roles.
            sentinel: who orders now; empty where validators do.
            away: members whose validator is not connected here.
        """
        self._node = node
        self._app = app
        self._ledger = ledger
        self._clock = clock
        self._presence_book = presence
        self._admit = admit
        self._sentinel = sentinel
        self._away = away
        self._feed = Feed()
        app.follow(self._feed.tell)

    @property
    def calls(self) -> Mapping[str, Call]:
        """Request-reply methods."""
        return {
            CALL_TASKS: self._tasks,
            CALL_TASK: self._task,
            CALL_RUNNERS: self._runners,
            CALL_RUNNER: self._runner,
            CALL_PRESENCE: self._presence,
        }

    @property
    def streams(self) -> Mapping[str, Stream]:
        """Streaming methods."""
        return {STREAM_CHANGES: self._changes}

    def restored(self) -> None:
        """The state was replaced as a whole."""
        self._feed.tell_everything()

    # --- tasks and taskrunners ------------------------------------------------------------------------------------

    async def _tasks(self, caller: Caller, body: bytes) -> bytes:
        """A-14."""
        self._admit(caller, *Role)
        after = decode(body, TasksRequest).after
        return encode(_page(tasks.list_tasks(Overlay(self._app.store), after)))

    async def _task(self, caller: Caller, body: bytes) -> bytes:
        """A-14."""
        self._admit(caller, *Role)
        name, state = TaskName(decode(body, str)), Overlay(self._app.store)
        task = tasks.load_task(state, name)
        if task is None:
            return b""
        said = tuple(approvals.list_approvals(state, name))
        return encode(WholeTask(task=task, body=tasks.load_body(state, name), approvals=said))

    async def _runners(self, caller: Caller, body: bytes) -> bytes:
        """A-14."""
        self._admit(caller, *Role)
        after = decode(body, RunnersRequest).after
        names = taskrunners.list_runners(Overlay(self._app.store))
        return encode(_page(RunnerName(name) for name in names if name > after))

    async def _runner(self, caller: Caller, body: bytes) -> bytes:
        """A-14."""
        self._admit(caller, *Role)
        return self._app.query("runner", decode(body, str).encode())

    # --- nodes ----------------------------------------------------------------------------------------------------

    async def _presence(self, caller: Caller, body: bytes) -> bytes:
        """A-15."""
        self._admit(caller, *Role)
        after = decode(body, PresenceRequest).after
        prefix = membership.node_key(NodeId(""))
        names = [NodeName.parse(key.removeprefix(prefix)) for key in self._app.store.keys(prefix)]
        sns: defaultdict[TrustDomain, list[NodeId]] = defaultdict(list)
        for name in names:
            if name.role is Role.SN:
                sns[name.domain].append(name.id)
        connected = self._connected(sns)
        return encode(_page(self._presence_of(name, sns[name.domain], connected) for name in names if name.id > after))

    def _presence_of(self, name: NodeName, sns: list[NodeId], connected: set[NodeId]) -> Presence:
        heard = self._presence_book.of(name.id)
        seen_ms = self._clock() if name.id in connected else heard.at_ms
        return Presence(node=name.id, seen_ms=seen_ms, parent=self._parent_of(name, sns, asked=heard.asked))

    def _parent_of(self, name: NodeName, sns: list[NodeId], *, asked: bool) -> NodeId:
        if name.role is Role.SN:
            sentinel = self._sentinel()
            return NodeId("") if name.id == sentinel else sentinel
        if asked and name.domain == self._node.domain:
            return self._node.id
        # Nodes ask their own organisation's SN only: where there is one it is that.
        return sns[0] if len(sns) == 1 else NodeId("")

    def _connected(self, sns: Mapping[TrustDomain, list[NodeId]]) -> set[NodeId]:
        """SNs that this one is in touch with at this moment."""
        found = {self._node.id}
        if self._sentinel():
            # A follower asks its sentinel for blocks all the time, and a problem is that it gets no answer.
            found |= set() if self._ledger.problem else {self._sentinel()}
        else:
            away = self._away()
            # A member's validator is beside its SN; beside which, where it has several, is not known here.
            found |= {nodes[0] for domain, nodes in sns.items() if len(nodes) == 1 and domain not in away}
        return found

    # --- changes --------------------------------------------------------------------------------------------------

    async def _changes(self, caller: Caller, _body: bytes) -> AsyncIterator[Frame]:
        """A-16: what each block changed; a slow reader gets several blocks in one notice, and misses none."""
        self._admit(caller, *Role)
        with self._feed.reading() as reader:
            while True:
                yield encode(reader.take(max(0, self._app.store.height), self._ledger.problem))
                await reader.wait(KEEPALIVE_S)


def _page(entries: Iterable[Record | str]) -> tuple[Record | str, ...]:
    """The first of `entries`, as many as fit into a reply."""
    kept: list[Record | str] = []
    room = PAGE_BYTES
    for entry in entries:
        room -= len(encode(entry)) + 8
        if room < 0:
            break
        kept.append(entry)
    return tuple(kept)
