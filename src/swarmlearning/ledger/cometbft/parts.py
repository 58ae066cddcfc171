"""What a started engine consists of, made and ended together: its file, its socket, the child and who watches it.

Does not: know lives beyond one start (`engine`).
"""

import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from swarmlearning.encoding import sha256
from swarmlearning.ledger.boundary import Application, Snapshots
from swarmlearning.ledger.cometbft.binary import find_binary
from swarmlearning.ledger.cometbft.child import Child
from swarmlearning.ledger.cometbft.config import Attach, CometConfig
from swarmlearning.ledger.cometbft.crash import Crash
from swarmlearning.ledger.cometbft.driver import Driver
from swarmlearning.ledger.cometbft.home import HOME, load_or_create_keys, write_home
from swarmlearning.ledger.cometbft.rpc import Rpc
from swarmlearning.ledger.cometbft.server import AbciServer
from swarmlearning.ledger.cometbft.store import OrderedStore
from swarmlearning.ledger.cometbft.submitting import Submitter
from swarmlearning.ledger.cometbft.watch import Watch
from swarmlearning.ledger.waiting import Waiting
from swarmlearning.types import MAX_SOCKET_PATH

_LOG: Final = logging.getLogger("swarmlearning.ledger")

LOG: Final = "cometbft.log"
"""The child's log within the data directory."""


class Parts:
    """The parts of a started engine.

    Args:
        config: who and where.
        app: the application, initialised.
        store: the engine's own file, open; closed with the other parts.
        waiting: everyone who waits.
        crash: raises where a test wants the node to die.
        failed: told of what ends the engine.
        snapshots: the application's, if it has any.

    Raises:
        ConfigurationError: there is no usable `cometbft`, or its home is another network's.
    """

    def __init__(
        self,
        config: CometConfig,
        app: Application,
        store: OrderedStore,
        waiting: Waiting,
        crash: Crash,
        failed: Callable[[BaseException], None],
        snapshots: Snapshots | None,
    ) -> None:
        self._config = config
        self._app = app
        self._waiting = waiting
        self._temporary: Path | None = None
        self._look_now = asyncio.Event()
        self._stale_home = False
        self.store = store
        self.child: Child | None = None
        where = config.attach or self._make_child()
        self._where = where
        self.rpc = Rpc(where.rpc)
        self.driver = Driver(config, app, store, waiting, crash, self._members_changed, snapshots=snapshots)
        self.server = AbciServer(where.abci, self._begin, self.driver.answer, failed)
        self.watch = Watch(self.rpc, app.validators, self._stalled, config.dial_again_s)
        self.submitter = Submitter(config, self.driver, store, self.rpc, waiting, lambda: self.problem)
        self.write_home()

    @property
    def problem(self) -> str:
        """What keeps blocks from being made here, for people; "" while nothing does."""
        return (self.child.problem if self.child is not None else "") or self.watch.sight.problem

    def write_home(self) -> None:
        """Write what the child reads at its next start."""
        if self.child is None:
            return
        config, home = self._config, self._config.data_dir / HOME
        own = load_or_create_keys(home)
        write_home(
            home,
            chain_id=config.network,
            genesis_time_ms=config.genesis_time_ms,
            app_state=sha256(config.genesis),
            initial=config.initial,
            peers=[member for member in self.driver.members if member.peer != own.peer],
            listen=config.listen,
            external=config.external,
            abci=self._where.abci,
            rpc=self._where.rpc,
            # A child that has blocks passes over it. One that died between our restoring and its noting that needs it:
            # it would never start on an application that is ahead of it.
            state_sync=config.state_sync,
        )

    async def care(self) -> None:
        """Watch the child, and see to it that it is connected to all members and to nobody else; until cancelled.

        Raises:
            ConfigurationError: its home cannot be written.
            Broken: it does not end.
        """
        while True:
            if self._stale_home:
                # The next start must know the new peers, if it is only because the child died.
                self._stale_home = False
                self.write_home()
            sight = await self.watch.look()
            strangers = sight.peers - self.driver.allowed_peers
            if strangers:
                await self._cut_off(strangers)
            await self.watch.dial()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look_now.wait(), self._config.watch_every_s)
            self._look_now.clear()

    async def _cut_off(self, strangers: frozenset[str]) -> None:
        """Peers are asked about only when they connect; who is expelled later stays until the child starts anew."""
        names = ", ".join(sorted(strangers))
        if self.child is None:
            _LOG.warning("CometBFT is connected to %s, no validator's any more: start it anew", names)
            return
        self.watch.forget()
        await self.child.restart(f"connected to {names}, no validator's any more")

    def _members_changed(self) -> None:
        self._stale_home = True
        self._look_now.set()

    async def stop(self) -> None:
        """End the child, and close everything."""
        if self.child is not None:
            await self.child.stop()
        await self.server.stop()
        await self.rpc.close()
        self.store.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _make_child(self) -> Attach:
        """Prepare the child, and say where it and we listen for each other."""
        home = self._config.data_dir / HOME
        self.child = Child(find_binary(self._config.binary), home, self._config.data_dir / LOG)
        sockets = home / "run"
        if len(os.fsencode(sockets.absolute() / "abci.sock")) > MAX_SOCKET_PATH:
            sockets = self._temporary = Path(tempfile.mkdtemp(prefix="swarm-"))
        return Attach(abci=f"unix://{sockets.absolute()}/abci.sock", rpc=f"unix://{sockets.absolute()}/rpc.sock")

    def _begin(self) -> None:
        self.driver.begin()
        self.watch.forget()

    def _stalled(self) -> str:
        waited_s = self.submitter.waiting_s
        if waited_s < self._config.stalled_after_s:
            return ""
        return f"a transaction waits for a block for {waited_s:.0f} s: too few validators vote, or none proposes it"
