"""An agent made of what the command line says: profile, policy, manager, SN. Spec: docs/spec/swop.md, SW-1."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from swarmlearning.clock import system_clock
from swarmlearning.errors import ConfigurationError
from swarmlearning.identity.source import PemSource
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.agent import Agent, lock_data
from swarmlearning.swop.host import Host, PolicyBook
from swarmlearning.swop.journal import Journal
from swarmlearning.swop.link import Link
from swarmlearning.swop.managers.boundary import Manager, ManagerSettings
from swarmlearning.swop.outcomes import Outcomes
from swarmlearning.swop.pairs import place_of
from swarmlearning.swop.policy_file import load_policy
from swarmlearning.swop.profile import IdentityPart, ManagerKind, Profile
from swarmlearning.swop.profile_check import check_profile, find_ignored
from swarmlearning.swop.profile_file import load_profile
from swarmlearning.swop.reopening import open_again
from swarmlearning.swop.swarm_run import VOLUMES
from swarmlearning.transport.route import own_address
from swarmlearning.types import SN_API_PORT, Endpoint

log = logging.getLogger("swarmlearning.swop")


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is started with."""

    profile: Path
    data: Path
    settings: Mapping[str, str] = {}
    """Values of the profile's placeholders."""
    sn: str | None = None
    """Of the own organisation, where the profile names none."""
    manager: ManagerKind | None = None
    """None: what the profile says, or whatever this host has."""
    bases: tuple[tuple[str, str], ...] = ()
    sl_image: str = ""
    host_ip: str | None = None
    """Where SLs are reached whose node in the profile says nothing; None: this host's address on the way to the SN."""
    sign_key: str | None = None
    keep: bool = False


def parse_bases(texts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Interpreters of this host that stand for images, each given as `IMAGE=PYTHON`.

    Raises:
        ConfigurationError: one is given otherwise.
    """
    found = []
    for text in texts:
        image, _, python = text.rpartition("=")
        if not image or not python:
            raise ConfigurationError(
                f"--base {make_printable(text)}: expected IMAGE=PYTHON, such as pytorch/*=/opt/torch/bin/python"
            )
        found.append((image, python))
    return tuple(found)


def _find_sn(config: AgentConfig, profile: Profile) -> Endpoint:
    if profile.sn is not None:
        if config.sn is not None and Endpoint.parse(config.sn, SN_API_PORT) != profile.sn:
            log.warning("the SN is %s, as the profile says, and not %s", profile.sn, make_printable(config.sn))
        return profile.sn
    if config.sn is None:
        raise ConfigurationError(
            f"{config.profile} names no SN (apisrv): name that of your organisation by --sn or SWARM_SN"
        )
    return Endpoint.parse(config.sn, SN_API_PORT)


def find_address(sn: Endpoint) -> str:
    """This host's address on the way to the SN.

    Raises:
        ConfigurationError: there is no way.
    """
    try:
        return own_address(sn)
    except OSError as error:
        raise ConfigurationError(
            f"cannot tell this host's address on the way to the SN {sn} ({error}): correct --sn, or give --host-ip"
        ) from error


def _check(config: AgentConfig, profile: Profile) -> None:
    """Tell what is wrong with what a profile names; its other nodes can work all the same."""
    checked = check_profile(profile, system_clock())
    for text in (*checked.warnings, *checked.problems):
        log.warning("%s: %s", config.profile, make_printable(text))


async def run_agent(config: AgentConfig, identity: PemSource, ready: Callable[[Agent], None]) -> None:
    """Run an agent until cancelled; `ready` is called once the ledger knows that it listens.

    Raises:
        ConfigurationError: profile, policy, identity or this host are at fault; or another agent uses the directory.
        Broken: the journal cannot be written.
    """
    profile = load_profile(config.profile, config.settings)
    sn = _find_sn(config, profile)
    host_ip = config.host_ip or find_address(sn)
    data = config.data
    async with contextlib.AsyncExitStack() as stack:
        link = Link(identity, sn, config.sign_key)
        stack.push_async_callback(link.close)
        stack.enter_context(lock_data(data))
        policy = PolicyBook(None if profile.policy is None else Path(profile.policy), load_policy)
        _check(config, profile)
        journal = Journal(data)
        manager = await _open(config, profile, link, has_pairs=bool(journal.pair_ids()))
        stack.push_async_callback(manager.close)
        if manager.kind is ManagerKind.PROCESS and profile.manager is not ManagerKind.PROCESS:
            for text in find_ignored(profile):
                log.warning("%s: %s", config.profile, make_printable(text))
        if not manager.isolates:
            log.warning("other organisations' tasks are refused, unless the policy says allow_unsandboxed: true")
        nodes = ", ".join(str(node.idx) for node in profile.nodes)
        log.info("%s: %s; nodes of the profile: %s", profile.group, manager.describe(), nodes)
        host = Host(
            data=data,
            link=link,
            journal=journal,
            outcomes=Outcomes(data, (config.sl_image,)),
            manager=manager,
            profile=profile,
            policy=policy,
            sn=sn,
            host_ip=host_ip,
            keep=config.keep,
        )
        agent = Agent(host)
        try:
            await agent.run(lambda: ready(agent))
        except asyncio.CancelledError:
            await agent.retire()
            raise


def _find_secrets(config: AgentConfig, profile: Profile, link: Link) -> tuple[str, ...]:
    """Keys of all peers and of the agent: no program sees any of them."""
    keys = (a for node in profile.nodes for a in node.identity if a.part is IdentityPart.KEY and a.kind == "BIND")
    own = (config.sign_key,) if config.sign_key is not None else ()
    return (*(str(place_of(key, config.data / VOLUMES)) for key in keys), *link.secrets, *own)


async def _open(config: AgentConfig, profile: Profile, link: Link, *, has_pairs: bool) -> Manager:
    settings = ManagerSettings(
        data=str(config.data),
        agent=link.name.id,
        group=profile.group,
        bases=config.bases,
        sl_image=config.sl_image,
        secrets=_find_secrets(config, profile, link),
        keep=config.keep,
    )
    named = config.manager is not None
    return await open_again(config.manager or profile.manager, settings, named=named, has_pairs=has_pairs)
