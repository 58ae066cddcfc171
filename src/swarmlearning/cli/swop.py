"""`swarm swop`: the agent of an institution's host."""

from pathlib import Path

import click

from swarmlearning.cli import examples
from swarmlearning.cli.process import run_process, say, set_up_logging, until_signalled, write_ready
from swarmlearning.identity.options import identity_options
from swarmlearning.identity.source import PemSource


@click.command(
    epilog=examples(
        "swarm swop --profile swop_profile.yaml --data swop --sn 10.0.0.1:30304 --set CURRENT-PATH=/opt/swarm"
    )
)
@identity_options
@click.option(
    "--profile",
    required=True,
    envvar="SWOP_PROFILE",
    show_envvar=True,
    metavar="FILE",
    help="What this host can start, with which identities and data, and who decides.",
)
@click.option("--data", required=True, metavar="DIR", help="Journal, logs, images and volumes; kept across restarts.")
@click.option(
    "--sn",
    envvar="SWARM_SN",
    show_envvar=True,
    metavar="HOST:PORT",
    help="Own SN's API, where the profile names none.",
)
@click.option(
    "--set", "values", multiple=True, metavar="NAME=VALUE", help="Value of the profile's <NAME>; may be repeated."
)
@click.option(
    "--base",
    "bases",
    multiple=True,
    metavar="IMAGE=PYTHON",
    help="A Python of this host that stands for an image, which may have *; may be repeated (PROCESS).",
)
@click.option(
    "--resource-manager",
    type=click.Choice(["auto", "process", "docker", "podman"]),
    default="auto",
    show_default=True,
    help="What runs programs and builds images; auto: as the profile says, or what this host has.",
)
@click.option("--sl-image", default="", metavar="IMAGE", help="Image with this software, for SLs (DOCKER, PODMAN).")
@click.option(
    "--host-ip",
    metavar="IP",
    help="Address by which SLs are reached where the profile says none; default: the one on the way to the SN.",
)
@click.option("--sign-key", metavar="FILE", help="Signing key; default: beside the certificate, made if missing.")
@click.option(
    "--keep-containers",
    is_flag=True,
    envvar="SWOP_KEEP_CONTAINERS",
    show_envvar=True,
    help="Leave what a reset would remove in place, to look at it.",
)
@click.option("--ready-file", metavar="FILE", help="Written when the agent is ready, as JSON.")
def swop(
    identity: PemSource,
    profile: str,
    data: str,
    sn: str | None,
    values: tuple[str, ...],
    bases: tuple[str, ...],
    resource_manager: str,
    sl_image: str,
    host_ip: str | None,
    sign_key: str | None,
    keep_containers: bool,
    ready_file: str | None,
) -> None:
    """Run the agent (SWOP) of this host: it carries out the tasks of its taskrunners.

    It starts pairs of SL and ML program for tasks that its institution's policy allows, or that an operator has
    approved, and builds the images that they need. What it has started goes on when it ends, and when it is started
    again it picks that up.
    """
    from swarmlearning.swop.agent import Agent
    from swarmlearning.swop.placeholders import parse_settings
    from swarmlearning.swop.profile import ManagerKind
    from swarmlearning.swop.starting import AgentConfig, parse_bases, run_agent

    set_up_logging()
    config = AgentConfig(
        profile=Path(profile).expanduser().absolute(),
        data=Path(data).expanduser().absolute(),
        settings=parse_settings(values),
        sn=sn,
        manager=None if resource_manager == "auto" else ManagerKind(resource_manager.upper()),
        bases=parse_bases(bases),
        sl_image=sl_image,
        host_ip=host_ip,
        sign_key=sign_key,
        keep=keep_containers,
    )
    told = False

    def ready(agent: Agent) -> None:
        nonlocal told
        if not told:
            told = True
            write_ready(ready_file, {})
            say(f"SWOP {agent.name.short} ready")

    async def nothing() -> None:
        """What was started goes on."""

    async def main() -> None:
        await until_signalled(run_agent(config, identity, ready), nothing)

    run_process(main)
