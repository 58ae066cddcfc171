"""`swarm ci --web`: the command interface as a REST service."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from swarmlearning.cli.process import PORT, run_process, say, set_up_logging, until_signalled, write_ready
from swarmlearning.errors import ConfigurationError
from swarmlearning.swci.contexts import IdentityPaths
from swarmlearning.types import CI_PORT, SN_API_PORT, Endpoint

R = TypeVar("R")

MODE_VARIABLE: Final = "SWCI_MODE"
"""`WEB` stands for --web, as in the product we re-create."""


class WebOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options that only `--web` has."""

    web: bool
    web_port: int
    host_ip: str
    ready_file: str | None


def _is_web() -> bool:
    mode = os.environ.get(MODE_VARIABLE) or "CLI"
    if mode.upper() not in ("CLI", "WEB"):
        raise ConfigurationError(f"{MODE_VARIABLE} is {mode[:80]!r}; expected CLI or WEB")
    return mode.upper() == "WEB"


def web_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options of `--web` to a command; `take_web_options` takes them out again."""
    options = (
        click.option(
            "--web/--no-web",
            default=_is_web,
            show_default=f"no, unless {MODE_VARIABLE}=WEB",
            help="Serve the commands to programs over REST, until stopped; needs --sn, --usr-dir and an operator's "
            "identity.",
        ),
        click.option(
            "--web-port",
            type=PORT,
            default=CI_PORT,
            envvar="SWCI_WEB_PORT",
            show_default=True,
            show_envvar=True,
            help="With --web: port of the REST service.",
        ),
        click.option(
            "--host-ip",
            default="127.0.0.1",
            show_default=True,
            metavar="IP",
            help="With --web: address to listen on; only this machine reaches the default one.",
        ),
        click.option(
            "--ready-file", metavar="FILE", help="With --web: written when it is ready, with its port, as JSON."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def take_web_options(given: dict[str, Any]) -> WebOptions:
    """Take the options of `--web` out of all that were given."""
    return WebOptions(**{name: given.pop(name) for name in WebOptions.__struct_fields__})


def serve_web(options: WebOptions, identity: IdentityPaths, sn: str | None, usr_dir: str | None) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the SN or the directory is not given, or cannot be used.
        SwarmError: see `WebNode`.
    """
    # A shell or a script does without.
    from swarmlearning.swci.web.serve import WebConfig, WebNode

    if not sn or not usr_dir:
        raise ConfigurationError(
            "--web needs --sn HOST:PORT (SWARM_SN), whose commands it carries out, and --usr-dir DIR (USR_DIR), below "
            "which its callers' files stay"
        )
    set_up_logging()
    config = WebConfig(
        sn=Endpoint.parse(sn, SN_API_PORT),
        host=options.host_ip,
        port=options.web_port,
        root=Path(usr_dir).expanduser().absolute(),
        identity=identity,
    )

    async def main() -> None:
        node = WebNode(config)

        async def work() -> None:
            port = await node.start()
            write_ready(options.ready_file, {"web": port})
            say(f"REST service {node.name.short} ready: https://{options.host_ip}:{port}, files below {config.root}")
            await node.run()

        await until_signalled(work(), node.stop)

    run_process(main)
