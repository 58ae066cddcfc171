"""`swarm status` beside a training of real nodes: once, as JSON, and live on a terminal and without one."""

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest
from real_network import ask_swarm, running_network, swarm_command
from real_peers import finish, play, train

from swarmlearning.errors import ExitCode
from swarmlearning.local.network import LocalNetwork
from swarmlearning.types import DEFAULT_CONTRACT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(110)]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    with running_network(tmp_path_factory.mktemp("status") / "w") as made:
        yield made


def test_a_status_says_how_far_each_peer_is_as_far_as_it_shows_it(network: LocalNetwork) -> None:
    peers = train(network, "heart", 3)
    try:
        shown = ask_swarm(network, "status", "heart")
        assert shown.returncode == 0, shown.stderr
        rows = [line.split() for line in shown.stdout.splitlines()]
        assert ["contract", "heart,", "run", "1", "(created", "by", "a.example)"] in rows
        assert ["sl-0@a.example", "training", "3/3", "12", "min", "0.5000", "0.9100", "1", "3/3", "3/3"] in rows
        assert ["sl-1@a.example", "training", "-", "-", "-", "-", "-", "3/3", "3/3"] in rows
        assert "the newest 3 of 3 final rounds" in shown.stdout
        report = json.loads(ask_swarm(network, "status", "heart", "--json", "--rounds", "2").stdout)
        assert [round_["round"] for round_ in report["contract"]["rounds"]] == [1, 2]
        assert [round_["mean_metric"] for round_ in report["contract"]["rounds"]] == [0.91, 0.91]
        assert report["contract"]["rounds"][-1]["model"] == report["contract"]["newest_model"]
        assert [peer["eta_s"] for peer in report["contract"]["peers"]] == [749, None]
        assert report["network"]["sn"] == report["network"]["sentinel"] == network.sns[0].address.node
        # The only contract in use is shown in full, beside the line of the one that nobody uses.
        short = ask_swarm(network, "status").stdout
        assert "the newest 3 of 3 final rounds" in short
        assert any(line.startswith(DEFAULT_CONTRACT) for line in short.splitlines())
    finally:
        finish(peers)


def test_a_watch_without_a_terminal_is_a_line_a_change_and_ends_with_the_training(network: LocalNetwork) -> None:
    peers = train(network, "lines", 1)
    command = swarm_command(network, "status", "lines", "--watch")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert watch.stdout is not None
            first = watch.stdout.readline()
            assert "round 0 final" in first
            play(peers, 1)
        finally:
            finish(peers)
        rest = watch.stdout.read().splitlines()
        assert watch.wait(30) == 0
    assert any("round 1 final" in line and "2 of 2 contributed" in line for line in rest)
    assert rest[-1].endswith("lines, run 1: completed: the training is complete")
    assert "\x1b" not in first + "".join(rest)


def test_a_watch_on_a_terminal_is_drawn_anew_and_ends_with_ctrl_c(network: LocalNetwork) -> None:
    peers = train(network, "live", 1)
    ours, theirs = pty.openpty()
    environ = os.environ | {"TERM": "xterm", "COLUMNS": "90", "LINES": "40"}
    command = swarm_command(network, "status", "live", "--watch")
    watch = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    screen = Screen(ours)
    try:
        screen.wait_for(b"1 of 1 final rounds")
        play(peers, 1)
        screen.wait_for(b"2 of 2 final rounds")
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == ExitCode.INTERRUPTED
    finally:
        watch.kill()
        finish(peers)
    assert b"Traceback" not in screen.seen
    assert screen.seen.count(b"\x1b[?25l") == screen.seen.count(b"\x1b[?25h") == 1, "the cursor is back"


class Screen:
    """Reads what is written on a terminal, so that the writer is never blocked."""

    def __init__(self, terminal: int) -> None:
        self.seen = b""
        self._grown = threading.Condition()
        self._terminal = terminal
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._terminal, 65_536)
            except OSError:  # the other side has ended
                data = b""
            with self._grown:
                self.seen += data
                self._grown.notify_all()
            if not data:
                os.close(self._terminal)
                return

    def wait_for(self, text: bytes) -> None:
        with self._grown:
            assert self._grown.wait_for(lambda: text in self.seen, 40), self.seen


def test_an_sn_that_does_not_listen_is_told_in_one_line(network: LocalNetwork) -> None:
    done = ask_swarm(network, "status", "--sn", "127.0.0.1:1")
    assert done.returncode == ExitCode.UNREACHABLE
    assert done.stderr.count("\n") == 1
    assert "127.0.0.1:1" in done.stderr


def test_a_misspelt_contract_is_told_in_one_line(network: LocalNetwork) -> None:
    done = ask_swarm(network, "status", "defaultbb.cqdb.sml.hp")
    assert done.returncode == ExitCode.CONFIGURATION
    assert f"did you mean {DEFAULT_CONTRACT}?" in done.stderr
    assert done.stderr.count("\n") == 1
