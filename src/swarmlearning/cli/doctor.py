"""`swarm doctor`: what does not work, or will not, and what to do about it."""

import asyncio
import os
from itertools import groupby
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.text import Text

from swarmlearning.cli import examples
from swarmlearning.doctor.credentials import Paths
from swarmlearning.doctor.examine import Plan, examine
from swarmlearning.doctor.findings import Finding, Report, Verdict
from swarmlearning.encoding import to_json
from swarmlearning.errors import ConfigurationError, ExitCode
from swarmlearning.identity.options import path_options
from swarmlearning.types import SN_API_PORT, Endpoint

_STYLES: Final = {
    Verdict.OK: "green",
    Verdict.WARNING: "yellow",
    Verdict.PROBLEM: "bold red",
    Verdict.SKIPPED: "dim",
}
_WIDTH: Final = max(len(verdict) for verdict in Verdict)
_PORT: Final = click.IntRange(1, 65535)


@click.command(
    epilog=examples(
        "swarm doctor --sn 10.0.0.1:30304 --cert operator.cert.pem --key operator.key.pem --cacert a.ca.pem",
        "swarm doctor --data sn --data sl --control sl/control --host-ip 10.0.0.1 --sl-fs-port 30305",
    )
)
@path_options
@click.option("--sn", envvar="SWARM_SN", show_envvar=True, metavar="HOST:PORT", help="Own SN's API.")
@click.option("--host-ip", default="", metavar="IP", help="Address at which this machine's nodes listen.")
@click.option("--sl-fs-port", type=_PORT, help="Port at which an SL should listen here.")
@click.option("--sn-api-port", type=_PORT, help="Port at which an SN's API should listen here.")
@click.option("--sn-p2p-port", type=_PORT, help="Port at which an SN should listen here for other SNs.")
@click.option("--data", multiple=True, metavar="DIR", help="Data directory of a node here; may be repeated.")
@click.option("--control", multiple=True, metavar="DIR", help="Control directory of an SL here; may be repeated.")
@click.option(
    "--exchange-dir",
    envvar="SWARM_EXCHANGE_DIR",
    show_envvar=True,
    metavar="DIR",
    help="Where parameters are exchanged with the program.",
)
@click.option("--without", multiple=True, metavar="NAME@DOMAIN", help="Do not ask this node; may be repeated.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="For everything one node is asked. All are asked at once: the command takes three times this at most.",
)
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def doctor(
    *,
    cert: str | None,
    key: str | None,
    cacert: str | None,
    capath: str | None,
    sn: str | None,
    host_ip: str,
    sl_fs_port: int | None,
    sn_api_port: int | None,
    sn_p2p_port: int | None,
    data: tuple[str, ...],
    control: tuple[str, ...],
    exchange_dir: str | None,
    without: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> int:
    """Look for what does not work, or will not, and say what to do about it.

    Checks identity, own SN, all members, clocks, versions, ports, disks, trainings and the program's environment.
    Every option is optional: what cannot be looked at is said, and what to give for it. Changes nothing. The exit
    status is 1 if there is a problem, 0 if there are warnings at most.
    """
    directories = [
        *(("--data", path) for path in data),
        *(("--control", path) for path in control),
        *((("--exchange-dir", exchange_dir),) if exchange_dir else ()),
    ]
    if host_ip and any(c.isspace() for c in host_ip):
        raise ConfigurationError(f"--host-ip {host_ip!r}: expected an IP address or a name")
    plan = Plan(
        paths=Paths(cert=cert or "", key=key or "", cacert=cacert or "", capath=capath or ""),
        sn=Endpoint.parse(sn, SN_API_PORT) if sn else None,
        host_ip=host_ip,
        sl_fs_port=sl_fs_port or 0,
        sn_api_port=sn_api_port or 0,
        sn_p2p_port=sn_p2p_port or 0,
        directories=tuple((option, Path(path).expanduser()) for option, path in directories),
        without=without,
        timeout_s=timeout,
        environ=os.environ,
    )
    report = asyncio.run(examine(plan))
    if as_json:
        click.echo(to_json(report).decode())
    else:
        show_report(report, Console(highlight=False))
    return ExitCode.FAILED if report.verdict is Verdict.PROBLEM else ExitCode.OK


def show_report(report: Report, console: Console) -> None:
    """Print the findings under their headings, and how many there are of each verdict."""
    for topic, findings in groupby(report.findings, key=lambda finding: finding.topic):
        console.print(Text(topic.value, style="bold"))
        for finding in findings:
            for line in render_finding(finding):
                # Not wrapped: a line stays one line for `grep`.
                console.print(line, soft_wrap=True)
    console.print()
    console.print(_summarise(report), soft_wrap=True)


def render_finding(finding: Finding) -> list[Text]:
    """A finding's line, and the line on what to do; the verdict is a word as well as a colour."""
    line = Text("  ")
    line.append(f"{finding.verdict.value:{_WIDTH}}", style=_STYLES[finding.verdict])
    line.append(f"  {_clean(finding.subject)}: {_clean(finding.text)}")
    lines = [line]
    if finding.advice:
        lines.append(Text(f"  {'':{_WIDTH}}  -> {_clean(finding.advice)}"))
    return lines


def _summarise(report: Report) -> Text:
    counts = {verdict: sum(finding.verdict is verdict for finding in report.findings) for verdict in Verdict}
    words = {
        Verdict.PROBLEM: "problem" if counts[Verdict.PROBLEM] == 1 else "problems",
        Verdict.WARNING: "warning" if counts[Verdict.WARNING] == 1 else "warnings",
        Verdict.OK: "ok",
        Verdict.SKIPPED: "skipped",
    }
    return Text(", ".join(f"{counts[verdict]} {word}" for verdict, word in words.items()), style="bold")


def _clean(text: str) -> str:
    """One line without control characters, whatever a message from elsewhere holds."""
    return "".join(c if c.isprintable() else " " for c in text)
