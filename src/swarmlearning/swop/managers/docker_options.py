"""`usrcontaineropts`: options that an institution gives its programs' containers in its profile.

Those that give a program a device hold for every task. Those that take a wall away hold for tasks of the own
organisation only: another one's program must not get, by a line that was written for another purpose, what the
container is there to keep from it. Spec: docs/spec/swop-containers.md, SW-75.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers.docker_mounts import Json
from swarmlearning.swop.profile import Option

OWN_ONLY: Final = frozenset({"cap-add", "security-opt", "privileged", "ipc"})
"""They take away what keeps a program apart from the host and from other programs."""

_DEVICES: Final = ("/dev/kfd", "/dev/dri", "/dev/nvidia", "/dev/infiniband")
"""Accelerators, which other organisations' programs may have; of another device they might read the host's disk."""

_SIZES: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TRUE: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def read_options(options: Iterable[Option], *, own: bool, podman: bool) -> Json:
    """What the options add to a container's `HostConfig`.

    Args:
        options: as the profile has them.
        own: whether the task is of the own organisation.
        podman: whether the engine is Podman, which names GPUs in another way.

    Raises:
        ConfigurationError: an option is unknown, malformed, or not for this task; names the profile's line.
    """
    config: Json = {}
    for option in options:
        name = option.name.strip().lower().lstrip("-")
        where = f"profile, line {option.line}: usrcontaineropts {name}"
        value = option.value.strip().strip("\"'")
        if name not in _READERS:
            known = ", ".join(sorted(_READERS))
            raise ConfigurationError(f"profile, line {option.line}: option {name[:80]!r}; known are {known}")
        if not own and (name in OWN_ONLY or (name == "device" and not _is_accelerator(value))):
            raise ConfigurationError(
                f"{where}: {value[:80]} holds only for tasks of the own organisation, and this one is another's; "
                "remove the line to take part"
            )
        for key, added in _READERS[name](where, value, podman).items():
            present = config.get(key)
            config[key] = [*present, *added] if isinstance(present, list) and isinstance(added, list) else added
    return config


def _is_accelerator(value: str) -> bool:
    path = value.split(":")[0]
    inside = any(path == device or path.startswith(device) for device in _DEVICES)
    return inside and ".." not in path.split("/")


def _gpus(where: str, value: str, podman: bool) -> Json:
    count, ids = 0, list[str]()
    text = value.removeprefix("device=")
    named = text != value
    if text == "all":
        count = -1
    elif not named and text.isascii() and text.isdigit() and 0 < int(text) <= 64:
        count = int(text)
    elif named and re.fullmatch(r"[A-Za-z0-9_.-]+(,[A-Za-z0-9_.-]+)*", text):
        ids = text.split(",")
    else:
        raise ConfigurationError(f"{where}: {value[:80]!r}; expected all, a number, or device=0,1")
    if podman:  # by the names of the Container Device Interface, which it does not make up by itself
        numbers = ids or (["all"] if count < 0 else [str(number) for number in range(count)])
        return {"Devices": [{"PathOnHost": f"nvidia.com/gpu={number}"} for number in numbers]}
    request: Json = {"Driver": "nvidia", "Capabilities": [["gpu"]]}
    request |= {"DeviceIDs": ids} if ids else {"Count": count}
    return {"DeviceRequests": [request]}


def _device(where: str, value: str, _: bool) -> Json:
    parts = value.split(":")
    if not parts[0].startswith("/dev/") or len(parts) > 3 or ".." in value:
        raise ConfigurationError(f"{where}: {value[:80]!r}; expected /dev/NAME, or /dev/NAME:TARGET:rwm")
    inside = parts[1] if len(parts) > 1 else parts[0]
    rights = parts[2] if len(parts) > 2 else "rwm"
    if not set(rights) <= set("rwm") or not inside.startswith("/"):
        raise ConfigurationError(f"{where}: {value[:80]!r}; expected /dev/NAME, or /dev/NAME:TARGET:rwm")
    return {"Devices": [{"PathOnHost": parts[0], "PathInContainer": inside, "CgroupPermissions": rights}]}


def _ipc(where: str, value: str, _: bool) -> Json:
    if value not in ("host", "private", "shareable", "none"):
        raise ConfigurationError(f"{where}: {value[:80]!r}; expected host, private, shareable or none")
    return {"IpcMode": value}


def _shm_size(where: str, value: str, _: bool) -> Json:
    found = re.fullmatch(r"([0-9]{1,12})([bkmg]?)b?", value.lower())
    if found is None or int(found[1]) == 0:
        raise ConfigurationError(f"{where}: {value[:80]!r}; expected bytes, or a number with k, m or g such as 8g")
    return {"ShmSize": int(found[1]) * _SIZES[found[2]]}


def _group_add(where: str, value: str, _: bool) -> Json:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value) or value in ("0", "root", "docker"):
        raise ConfigurationError(f"{where}: {value[:80]!r}; expected a group such as video, and not root or docker")
    return {"GroupAdd": [value]}


def _cap_add(where: str, value: str, _: bool) -> Json:
    if not re.fullmatch(r"[A-Za-z_]{1,40}", value):
        raise ConfigurationError(f"{where}: {value[:80]!r}; expected a capability such as SYS_PTRACE")
    return {"CapAdd": [value.upper()]}


def _security_opt(_where: str, value: str, _: bool) -> Json:
    return {"SecurityOpt": [value]}


def _privileged(where: str, value: str, _: bool) -> Json:
    flag = _TRUE.get(value.lower())
    if flag is None:
        raise ConfigurationError(f"{where}: {value[:80]!r}; expected true or false")
    return {"Privileged": flag}


_READERS: Final[dict[str, Callable[[str, str, bool], Json]]] = {
    "gpus": _gpus,
    "device": _device,
    "ipc": _ipc,
    "shm-size": _shm_size,
    "group-add": _group_add,
    "cap-add": _cap_add,
    "security-opt": _security_opt,
    "privileged": _privileged,
}
