"""Recipes of images, lines of a Dockerfile, as the steps that PROCESS carries out: no shell is ever started.

Pure: looks at no file. What is not understood is an error that says so; nothing is carried out in part. Spec:
docs/spec/swop-content.md, SW-60 to SW-62; for people: docs/reference/tasks.md.
"""

import json
import posixpath
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers.recipe_pip import Argument, is_ours, join_path, names_anything, read_pip
from swarmlearning.swop.managers.recipe_words import (
    Instruction,
    StepFault,
    Word,
    refuse,
    shorten,
    split_instructions,
    split_words,
)

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""`PATH` of an image before its recipe changes it."""

IGNORED: Final = {
    "CMD": "the task says what is run",
    "ENTRYPOINT": "the task says what is run",
    "EXPOSE": "programs are asked nothing from outside",
    "HEALTHCHECK": "SL and program are watched anyway",
    "LABEL": "it is for people",
    "MAINTAINER": "it is for people",
    "SHELL": "no shell is started",
    "STOPSIGNAL": "programs are ended by SIGTERM",
    "USER": "programs run as the agent's user",
    "VOLUME": "the task says what is mounted",
}
"""Instructions without effect, and why that does no harm."""

OPEN_PLACES: Final = ("/var/lib", "/var/cache", "/var/www", "/var/opt", "/var/log")
"""Where a recipe may have files although they are within a directory of the system."""

SYSTEM: Final = frozenset(
    {"bin", "boot", "dev", "etc", "gnu", "lib", "lib32", "lib64", "libx32", "nix", "proc", "run", "sbin", "sys", "usr"}
)
"""Directories that programs see of the host; and so is `var`, but for what `OPEN_PLACES` names."""

_BASE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PIPS: Final = (("pip",), ("pip3",), ("python", "-m", "pip"), ("python3", "-m", "pip"))


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What is done in one step, or in a part of one."""

    number: int
    """Of the instruction, from 1."""
    text: str
    """For people."""


class Install(Step, frozen=True, kw_only=True, tag="install"):
    """`pip install`."""

    workdir: str
    arguments: tuple[Argument, ...]


class Copy(Step, frozen=True, kw_only=True, tag="copy"):
    """Files of the build context come into the image."""

    sources: tuple[str, ...]
    """Relative to the context, without `..`; may have `*` and `?`."""
    target: str
    into: bool
    """Whether the target is a directory in any case."""


class MakeDirectories(Step, frozen=True, kw_only=True, tag="mkdir"):
    """`mkdir -p`, or WORKDIR."""

    paths: tuple[str, ...]


class Remove(Step, frozen=True, kw_only=True, tag="rm"):
    """`rm -rf`."""

    paths: tuple[str, ...]
    """May have `*` and `?` in their last parts."""


AnyStep = Install | Copy | MakeDirectories | Remove


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """An image's recipe."""

    base: str
    """As FROM names it."""
    steps: tuple[AnyStep, ...]
    environment: tuple[tuple[str, str], ...]
    """By ENV, for programs; `PATH` among them only if the recipe sets it."""
    workdir: str
    total: int
    """How many instructions there are."""
    notes: tuple[str, ...]
    """What has no effect, for people."""


def read_recipe(lines: Sequence[str]) -> Recipe:
    """What a recipe says.

    Raises:
        ConfigurationError: PROCESS cannot carry it out; the message names the step.
    """
    instructions = split_instructions(lines)
    if not any(each.name == "FROM" for each in instructions):
        raise ConfigurationError("the recipe (BuildSteps) has no FROM; expected FROM python:3.12 or the like first")
    reader = _Reader()
    for each in instructions:
        try:
            reader.read(each)
        except StepFault as fault:
            raise refuse(each.number, each.text, str(fault)) from fault
    return reader.finish(len(instructions))


class _Reader:
    """Takes one instruction after the other."""

    def __init__(self) -> None:
        self._base = ""
        self._steps: list[AnyStep] = []
        self._outer: dict[str, str] = {}  # ARGs before FROM
        self._arguments: dict[str, str] = {}
        self._environment: dict[str, str] = {}
        self._workdir = "/"
        self._notes: list[str] = []
        self._left_out: set[str] = set()  # where wheels would be that are not copied

    def finish(self, total: int) -> Recipe:
        return Recipe(
            base=self._base,
            steps=tuple(self._steps),
            environment=tuple(self._environment.items()),
            workdir=self._workdir,
            total=total,
            notes=tuple(self._notes),
        )

    @property
    def _variables(self) -> dict[str, str]:
        return {"PATH": DEFAULT_PATH, **self._arguments, **self._environment}

    def read(self, step: Instruction) -> None:
        if not self._base and step.name not in ("FROM", "ARG"):
            raise StepFault("expected FROM before it")
        match step.name:
            case "FROM":
                self._read_from(step)
            case "ARG":
                self._read_arg(step)
            case "ENV":
                self._read_env(step)
            case "WORKDIR":
                self._read_workdir(step)
            case "COPY" | "ADD":
                self._read_copy(step)
            case "RUN":
                self._read_run(step)
            case name if name in IGNORED:
                self._note(step, f"{name} has no effect: {IGNORED[name]}")
            case name:
                raise StepFault(f"{shorten(name)} is not carried out here")

    def _note(self, step: Instruction, text: str) -> None:
        self._notes.append(f"step {step.number}: {text}")

    def _read_from(self, step: Instruction) -> None:
        if self._base:
            raise StepFault("a second FROM: only one stage is built here")
        words = [word.text for word in split_words(step.rest, self._outer, command=False)]
        if len(words) == 3 and words[1].upper() == "AS":
            del words[1:]
        if len(words) != 1 or words[0].startswith("-"):
            raise StepFault("expected FROM <image>, without options")
        if not _BASE.fullmatch(words[0]):
            raise StepFault("expected the name of an image, such as python:3.12")
        self._base = words[0]

    def _read_arg(self, step: Instruction) -> None:
        inside = bool(self._base)
        for word in split_words(step.rest, self._variables if inside else self._outer, command=False):
            name, equals, value = word.text.partition("=")
            if not _VARIABLE.fullmatch(name):
                raise StepFault("expected ARG NAME=value")
            if not equals and not (inside and name in self._outer):
                raise StepFault(f"expected a value, as in ARG {name}=value: nobody else gives it one")
            (self._arguments if inside else self._outer)[name] = value if equals else self._outer[name]

    def _read_env(self, step: Instruction) -> None:
        first, _, rest = step.rest.partition(" ")
        if "=" in first:
            pairs = [word.text.partition("=") for word in split_words(step.rest, self._variables, command=False)]
        else:
            # The old form: all that follows the name is its value.
            words = split_words(rest.strip(), self._variables, command=False)
            pairs = [(first, "=" if words else "", " ".join(word.text for word in words))]
        for name, equals, value in pairs:
            if not equals or not _VARIABLE.fullmatch(name):
                raise StepFault("expected ENV NAME=value")
            if name.upper().startswith("PIP_"):
                self._note(step, f"{name} is for programs; pip is not given it")
            self._environment[name] = value

    def _read_workdir(self, step: Instruction) -> None:
        words = split_words(step.rest, self._variables, command=False)
        if not words:
            raise StepFault("expected a directory")
        self._workdir = join_path(self._workdir, " ".join(word.text for word in words))
        if self._workdir != "/":
            self._steps.append(
                MakeDirectories(number=step.number, text=step.text, paths=(_check_place(self._workdir),))
            )

    def _read_copy(self, step: Instruction) -> None:
        words = _read_list(step.rest) or split_words(step.rest, self._variables, command=False)
        paths = []
        for word in words:
            option = word.text.partition("=")[0]
            if option in ("--chown", "--chmod", "--link"):
                self._note(step, f"{option} has no effect: files belong to the agent's user")
            elif option.startswith("--"):
                raise StepFault(f"{shorten(option)} is not carried out here")
            else:
                paths.append(word.text)
        if len(paths) < 2:
            raise StepFault("expected what is copied, and where to")
        *sources, target = paths
        if step.name == "ADD" and any(_is_archive(source) for source in sources):
            raise StepFault("ADD would unpack an archive; a MAKE_SWARM_USER_CONTENT task does with EXTRACT")
        if kept := [_check_source(source) for source in sources if not is_ours(source)]:
            # One source that is left out must not turn the directory of several into a file.
            into = target.endswith("/") or target in (".", "..") or len(sources) > 1
            place = join_path(self._workdir, target)
            self._steps.append(
                Copy(number=step.number, text=step.text, sources=tuple(kept), target=_check_target(place), into=into)
            )
        for source in sources:
            if is_ours(source):
                self._left_out.add(join_path(self._workdir, target))
                name = shorten(posixpath.basename(source))
                self._note(step, f"{name} is not copied: Swarm Learning is in every image")

    def _read_run(self, step: Instruction) -> None:
        rest = step.rest
        while rest.startswith("--mount=type=cache"):
            self._note(step, "--mount=type=cache has no effect: nothing is cached")
            rest = rest.partition(" ")[2].lstrip()
        command: list[Word] = []
        words = _read_list(rest) or split_words(rest, self._variables, command=True)
        for word in [*words, Word(text="&&", operator=True)]:
            if not word.operator:
                command.append(word)
                continue
            if not command:
                raise StepFault("expected a command before and after &&")
            self._read_command(step, command)
            command = []

    def _read_command(self, step: Instruction, words: list[Word]) -> None:
        texts = [word.text for word in words]
        for start in _PIPS:
            if tuple(texts[: len(start)]) == start:
                pip = read_pip(words[len(start) :], self._workdir)
                for note in pip.notes:
                    self._note(step, note)
                kept = tuple(each for each in pip.arguments if not each.path or each.text not in self._left_out)
                if names_anything(kept):
                    text = shorten("pip " + " ".join(texts[len(start) :]))
                    self._steps.append(Install(number=step.number, text=text, workdir=self._workdir, arguments=kept))
                return
        options = {text for text in texts[1:] if text.startswith("-")}
        paths = [join_path(self._workdir, text) for text in texts[1:] if not text.startswith("-")]
        text = shorten(" ".join(texts))
        if texts[0] == "mkdir" and options <= {"-p", "--parents", "-v"} and paths:
            if any(word.pattern for word in words):
                raise StepFault("mkdir with * or ? needs a shell")
            made = tuple(_check_place(path) for path in paths)
            self._steps.append(MakeDirectories(number=step.number, text=text, paths=made))
        elif texts[0] == "rm" and options <= {"-r", "-f", "-R", "-rf", "-fr", "-Rf", "-fR", "-v"} and paths:
            removed = tuple(_check_place(path) for path in paths)
            self._steps.append(Remove(number=step.number, text=text, paths=removed))
        else:
            raise StepFault(f"{shorten(texts[0]) or 'an empty word'} is no command that is carried out here")


def _read_list(text: str) -> list[Word] | None:
    """The words of an instruction that is written as a JSON list; None if it is none."""
    if not text.startswith("["):
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list) or not items or not all(isinstance(item, str) and item for item in items):
        return None
    if not all(item.isprintable() for item in items):
        raise StepFault("expected printable characters alone")
    return [Word(text=item) for item in items]


def _check_place(path: str) -> str:
    """A path in the image where a recipe may change something."""
    parts = path.split("/")[1:]
    system = parts[0] in SYSTEM or (
        parts[0] == "var" and not any(f"{path}/".startswith(f"{place}/") for place in OPEN_PLACES)
    )
    if path == "/" or system:
        raise StepFault(f"{shorten(path)} belongs to the system; expected a place such as /app, /opt/<name> or /tmp")
    return path


def _check_target(path: str) -> str:
    """Where COPY may put something: at the top, too, which WORKDIR is without the instruction."""
    return path if path == "/" else _check_place(path)


def _check_source(source: str) -> str:
    if "://" in source or source.startswith(("git@", "<<")):
        raise StepFault("expected files of the build context; a MAKE_SWARM_USER_CONTENT task downloads")
    path = posixpath.normpath(source.lstrip("/") or ".")
    if path.split("/")[0] == "..":
        raise StepFault(f"{shorten(source)} is outside the build context")
    return path


def _is_archive(name: str) -> bool:
    return name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"))
