"""`swarm sn` and `swarm sl`: the node processes."""

import asyncio
from pathlib import Path

import click

from swarmlearning.cli.process import PORT, run_process, say, set_up_logging, until_signalled, write_ready
from swarmlearning.clock import parse_duration
from swarmlearning.contracts.limits import MAX_GRACE_MS
from swarmlearning.errors import ConfigurationError
from swarmlearning.identity.options import identity_options
from swarmlearning.identity.source import PemSource
from swarmlearning.types import SL_PORT, SN_API_PORT, SN_P2P_PORT, Endpoint, LedgerKind, NodeName


def _directory(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _milliseconds(option: str, text: str | None, least_ms: int) -> int | None:
    """A duration of the contracts; None where none is given.

    Raises:
        ConfigurationError: it is none, or outside what the contracts take.
    """
    if text is None:
        return None
    value = 0 if text.strip() in ("0", "0s") else round(parse_duration(text) * 1000)
    if not least_ms <= value <= MAX_GRACE_MS:
        raise ConfigurationError(f"{option} {text}: expected {least_ms / 1000:g} s to a day")
    return value


@click.command(epilog="Example: swarm sn --data sn --genesis genesis.bin --host-ip 10.0.0.1 --sentinel 10.0.0.2:30303")
@identity_options
@click.option("--data", required=True, metavar="DIR", help="Ledger and state of this SN; kept across restarts.")
@click.option("--genesis", required=True, metavar="FILE", help="The network's founding file (swarm network create).")
@click.option("--host-ip", required=True, metavar="IP", help="Address to listen on and be reached at.")
@click.option(
    "--sn-api-port", type=PORT, default=SN_API_PORT, show_default=True, help="For this organisation's own nodes."
)
@click.option("--sn-p2p-port", type=PORT, default=SN_P2P_PORT, show_default=True, help="For other organisations' SNs.")
@click.option("--sign-key", metavar="FILE", help="Ed25519 key of this SN; default DIR/signing.key, made if missing.")
@click.option("--sentinel", metavar="HOST:PORT", help="Peer-to-peer port of the sentinel; not on the sentinel itself.")
@click.option(
    "--ledger",
    type=click.Choice(["embedded", "cometbft"]),
    help="Engine that this network is expected to have; default: what the founding file says.",
)
@click.option(
    "--cometbft",
    envvar="SWARM_COMETBFT",
    show_envvar=True,
    metavar="FILE",
    help="The cometbft program; default: searched for on PATH and where `go install` puts it.",
)
@click.option(
    "--cometbft-abci", metavar="ADDRESS", help="A CometBFT that runs elsewhere: its proxy_app; none is started."
)
@click.option("--cometbft-rpc", metavar="ADDRESS", help="A CometBFT that runs elsewhere: its RPC, on this machine.")
@click.option("--keep-blocks", type=click.IntRange(0), default=0, help="CometBFT: newest blocks to keep; default: all.")
@click.option(
    "--snapshot-every",
    type=click.IntRange(0),
    default=1_000,
    show_default=True,
    help="CometBFT: keep a snapshot of the state, for newcomers, after each so many-th block; 0: none.",
)
@click.option("--ready-file", metavar="FILE", help="Written when the SN is ready, with its ports, as JSON.")
def sn(
    identity: PemSource,
    data: str,
    genesis: str,
    host_ip: str,
    sn_api_port: int,
    sn_p2p_port: int,
    sign_key: str | None,
    sentinel: str | None,
    ledger: LedgerKind | None,
    cometbft: str | None,
    cometbft_abci: str | None,
    cometbft_rpc: str | None,
    keep_blocks: int,
    snapshot_every: int,
    ready_file: str | None,
) -> None:
    """Run a network node (SN): a replica of the ledger, and the API for this organisation's nodes."""
    from swarmlearning.sn.engines import CometOptions
    from swarmlearning.sn.node import SnConfig, SnNode

    set_up_logging()
    directory = _directory(data)
    config = SnConfig(
        data=directory,
        genesis=Path(genesis),
        sign_key=Path(sign_key) if sign_key else directory / "signing.key",
        host=host_ip,
        api_port=sn_api_port,
        p2p_port=sn_p2p_port,
        sentinel=Endpoint.parse(sentinel, SN_P2P_PORT) if sentinel else None,
        ledger=ledger,
        cometbft=CometOptions(
            binary=Path(cometbft) if cometbft else None,
            abci=cometbft_abci or "",
            rpc=cometbft_rpc or "",
            retain_blocks=keep_blocks,
            snapshot_every=snapshot_every,
        ),
    )

    async def main() -> None:
        node = SnNode(config, identity)

        async def work() -> None:
            ports = await node.start()
            async with asyncio.TaskGroup() as group:
                group.create_task(node.run())
                await node.register()
                write_ready(ready_file, ports)
                where = f"API {host_ip}:{ports['api']}, P2P {host_ip}:{ports['p2p']}"
                say(f"{node.part} {_name(node.credential.node)} ready: {where}")

        await until_signalled(work(), node.stop)

    run_process(main)


@click.command(epilog="Example: swarm sl --data sl --control sl/control --host-ip 10.0.0.1 --sn 10.0.0.1:30304")
@identity_options
@click.option("--data", required=True, metavar="DIR", help="Keys and working files of this SL.")
@click.option("--control", required=True, metavar="DIR", help="Where ML programs meet this SL (SWARM_SL).")
@click.option(
    "--exchange-dir",
    envvar="SWARM_EXCHANGE_DIR",
    show_envvar=True,
    metavar="DIR",
    help="Where parameters are exchanged with the program; default: the control directory.",
)
@click.option("--host-ip", required=True, metavar="IP", help="Address to listen on and be reached at.")
@click.option("--sl-fs-port", type=PORT, default=SL_PORT, show_default=True, help="For other SLs.")
@click.option(
    "--sl-fs-service",
    metavar="HOST[:PORT]",
    help="Where other SLs reach it, if not there: a reverse proxy, a container's published port.",
)
@click.option("--sn", required=True, envvar="SWARM_SN", show_envvar=True, metavar="HOST:PORT", help="Own SN's API.")
@click.option(
    "--max-wait",
    default="2h",
    envvar="SWARM_MAX_WAIT",
    show_default=True,
    show_envvar=True,
    metavar="TIME",
    help="End a wait after this long in which no round ended.",
)
@click.option(
    "--leader-failure-timeout",
    envvar="SL_LEADER_FAILURE_BASE_TIMEOUT",
    show_envvar=True,
    metavar="TIME",
    help="Silence (no bytes, no progress) after which this SL suspects a leader; default: as the training says, 10 s.",
)
@click.option(
    "--full-quorum-wait",
    envvar="SL_WAIT_FOR_FULL_QUORUM_SECONDS",
    show_envvar=True,
    metavar="TIME",
    help="How long rounds should wait for the other peers once enough are there; the longest that any peer wants "
    "counts; default: as the training says, 30 s.",
)
@click.option(
    "--lead/--no-lead",
    default=True,
    envvar="SL_MAKE_ME_ADMIN",
    show_default=True,
    show_envvar=True,
    help="Whether this SL may lead: pull the others' parameters, or its shard of them, and merge.",
)
@click.option("--exit-when-done", is_flag=True, help="End by itself when every training it took part in is over.")
@click.option("--ready-file", metavar="FILE", help="Written when the SL is ready, with its port, as JSON.")
def sl(
    identity: PemSource,
    data: str,
    control: str,
    exchange_dir: str | None,
    host_ip: str,
    sl_fs_port: int,
    sl_fs_service: str | None,
    sn: str,
    max_wait: str,
    leader_failure_timeout: str | None,
    full_quorum_wait: str | None,
    lead: bool,
    exit_when_done: bool,
    ready_file: str | None,
) -> None:
    """Run a learning node (SL): takes part in merge rounds for ML programs on this host."""
    from swarmlearning.sl.node import SlConfig, SlNode

    set_up_logging()
    config = SlConfig(
        data=_directory(data),
        control=_directory(control),
        exchange=_directory(exchange_dir or control),
        host=host_ip,
        port=sl_fs_port,
        sn=Endpoint.parse(sn, SN_API_PORT),
        wait_max_s=parse_duration(max_wait),
        exit_when_done=exit_when_done,
        lease_ms=_milliseconds("--leader-failure-timeout", leader_failure_timeout, 100),
        grace_ms=_milliseconds("--full-quorum-wait", full_quorum_wait, 0),
        leads=lead,
        reached=Endpoint.parse(sl_fs_service, SL_PORT) if sl_fs_service else None,
    )

    async def main() -> None:
        node = SlNode(config, identity)

        async def work() -> None:
            port = await node.start()
            write_ready(ready_file, {"sl": port})
            say(f"{_name(node.credential.node)} ready: {host_ip}:{port}, programs at {config.control}")
            await node.run()

        await until_signalled(work(), node.stop)

    run_process(main)


def _name(node: NodeName) -> str:
    return f"{node.role.value.upper()} {node.short}"
