"""URLs that content comes from: what they may look like, and through which proxy they are asked for.

Spec: docs/spec/swop-content.md, SW-67.
"""

import ipaddress
import posixpath
import urllib.request
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from swarmlearning.errors import TaskFailed
from swarmlearning.reports.status import make_printable

Allow = Callable[[str], bool]
"""Whether the institution lets something be downloaded from a URL."""

_PORTS: Final = {"http": 80, "https": 443}

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_CLOUDS: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
"""Where AWS (by IPv6), Alibaba and Azure tell a machine's secrets, and which are not of its link."""


def show_url(url: str) -> str:
    """A URL for people: without what stands behind `?`, where redirects have keys, and without a password."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "a URL that cannot be read"
    text = make_printable(f"{parts.scheme}://{host}{parts.path}" + ("?…" if parts.query else ""))
    return text if len(text) <= 160 else text[:159] + "…"


def check_url(url: str, allow: Allow) -> str:
    """A URL from which something may be downloaded.

    Raises:
        TaskFailed: it is of another kind than http and https, has a password in it, or is not allowed.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise TaskFailed(f"{show_url(url)}: is no URL") from error
    if parts.scheme not in _PORTS or not host or port == 0:
        raise TaskFailed(f"{show_url(url)}: expected a URL that begins with https:// or http://")
    if parts.username is not None or parts.password is not None:
        raise TaskFailed(f"{show_url(url)}: it has a user or password in it, which every member could read")
    if not url.isprintable() or not url.isascii() or " " in url or "\\" in url:
        raise TaskFailed(f"{show_url(url)}: expected a URL of ASCII characters without blanks")
    if is_link_local(host):
        # There clouds tell whoever asks the keys of the machine.
        raise TaskFailed(f"{show_url(url)}: nothing is downloaded from addresses of the own link")
    if not allow(url):
        raise TaskFailed(f"{show_url(url)}: this host's policy does not allow downloads from there")
    return url


def is_link_local(host: str) -> bool:
    """Whether a host is named by an address that only its own link has, or where clouds have such things instead."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        # The same IPv4 address, otherwise written: mapped, or for a translator at the network's end.
        inner = address.ipv4_mapped or (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None)
        address = inner or address
    return address.is_link_local or address in _CLOUDS


def follow(url: str, location: str, allow: Allow) -> str:
    """Where a redirect leads.

    Raises:
        TaskFailed: as `check_url`; or it leads from https to http.
    """
    try:
        target = urljoin(url, location)
    except ValueError as error:
        raise TaskFailed(f"{show_url(url)}: it redirects to something that is no URL") from error
    if urlsplit(url).scheme == "https" and target[:5].lower() == "http:":
        raise TaskFailed(f"{show_url(url)}: it redirects to {show_url(target)}, where nothing is encrypted")
    try:
        return check_url(target.partition("#")[0], allow)
    except TaskFailed as error:
        raise TaskFailed(f"{show_url(url)} redirects to {error}") from error


def name_of(url: str) -> str:
    """The file's name in a URL; empty if it has none."""
    return posixpath.basename(unquote(urlsplit(url).path))


def find_proxy(url: str) -> str | None:
    """The proxy for a URL by the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`); None: none."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return (proxy if "://" in proxy else f"http://{proxy}") if proxy else None
