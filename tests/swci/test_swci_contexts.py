"""Contexts: kept, shared by sessions that run at once, each session its own current one; files below one root."""

import fcntl
import functools
import os
import stat
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from swarmlearning.errors import ConfigurationError, NotFound
from swarmlearning.swci import contexts as contexts_module
from swarmlearning.swci.contexts import (
    MAX_CONTEXTS,
    MAX_VARIABLES,
    Book,
    Context,
    Contexts,
    FileContexts,
    IdentityPaths,
    MemoryContexts,
    OwnContext,
    config_directory,
    drop_context,
    find_context,
    put_context,
    set_variable,
)
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.session import Collected, Session
from swarmlearning.swci.values import ContextName, VariableName
from swarmlearning.types import Endpoint

HEART, LUNG, OWN = ContextName("heart"), ContextName("lung"), ContextName("this-session")


def context(name: str, port: int = 30304) -> Context:
    return Context(name=ContextName(name), sn=Endpoint(host="10.0.0.1", port=port))


def book(*names: str, current: str = "") -> Book:
    return Book(contexts=tuple(context(name) for name in sorted(names)), current=ContextName(current))


def session_of(kept: Contexts, root: Path) -> Session:
    return Session(contexts=kept, directory=Directory(root), output=Collected(), identity=IdentityPaths())


# --- CI-8: the file -------------------------------------------------------------------------------------------------


def test_ci8_contexts_are_kept_in_a_file_of_the_users_alone(tmp_path: Path) -> None:
    file = tmp_path / "config" / "contexts.json"
    FileContexts(file).change(lambda kept: put_context(kept, context("heart")))
    assert FileContexts(file).load() == book("heart")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_ci8_where_they_are_kept_is_said_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_CONFIG_DIR", str(tmp_path / "mine"))
    assert config_directory() == tmp_path / "mine"
    monkeypatch.delenv("SWARM_CONFIG_DIR")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert config_directory() == tmp_path / "xdg" / "swarmlearning"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_directory() == tmp_path / ".config" / "swarmlearning"


@pytest.mark.parametrize("text", ["", "{", '{"contexts": [{"name": 7}]}', "\x00\xff"])
def test_ci8_a_damaged_file_is_an_error_that_says_what_to_do_and_is_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "contexts.json"
    file.write_text(text)
    kept = FileContexts(file)
    with pytest.raises(ConfigurationError, match=r"contexts\.json.*; mend the file, or remove it to begin anew"):
        kept.load()
    with pytest.raises(ConfigurationError, match="mend the file"):
        kept.change(lambda before: put_context(before, context("heart")))
    assert file.read_text() == text


def test_ci8_a_context_has_its_own_identity_before_the_sessions(tmp_path: Path) -> None:
    own = replace(context("heart"), identity=IdentityPaths(cert="own.pem", key="own.key"))
    kept = MemoryContexts(Book(contexts=(own, context("lung")), current=LUNG))
    session = session_of(kept, tmp_path)
    session.identity = IdentityPaths(cert="mine.pem", key="mine.key")
    assert session.identity_of(own).cert == "own.pem"
    assert session.identity_of(session.context).cert == "mine.pem"


def test_ci8_without_an_identity_of_its_own_a_session_speaks_as_a_context_does(tmp_path: Path) -> None:
    heart = replace(context("heart", port=1), identity=IdentityPaths(cert="heart.pem"))
    lung = replace(context("lung", port=2), identity=IdentityPaths(cert="lung.pem"))
    session = session_of(MemoryContexts(Book(contexts=(heart, lung), current=LUNG)), tmp_path)
    nobodys = Endpoint(host="10.0.0.1", port=3)
    assert session.identity_for(nobodys).cert == "lung.pem", "the current one"
    assert session.identity_for(heart.sn).cert == "heart.pem", "the one of that SN"
    assert session.identity_for(lung.sn, HEART).cert == "heart.pem", "the one that is made anew"
    session.identity = IdentityPaths(cert="mine.pem")
    assert session.identity_for(heart.sn, HEART).cert == "mine.pem"


def test_ci8_there_is_a_limit_to_contexts_and_variables() -> None:
    full = book(*(f"c{number}" for number in range(MAX_CONTEXTS)))
    with pytest.raises(ConfigurationError, match="there are 100 contexts, the most there can be"):
        put_context(full, context("heart"))
    assert put_context(full, context("c7", port=1)).contexts[7].sn.port in (1, 30304)
    rich = replace(context("heart"), variables={f"V{number}": "" for number in range(MAX_VARIABLES)})
    with pytest.raises(ConfigurationError, match="context heart has 100 variables"):
        set_variable(rich, VariableName("W"), "1")
    assert set_variable(rich, VariableName("V7"), "1").variables["V7"] == "1"


# --- CI-9: sessions at once -----------------------------------------------------------------------------------------


def test_ci9_sessions_that_write_at_once_lose_none_of_each_others_contexts(tmp_path: Path) -> None:
    file = tmp_path / "contexts.json"

    def write(shell: int) -> None:
        for number in range(8):
            made = context(f"c{shell}-{number}")
            FileContexts(file).change(functools.partial(put_context, context=made))

    threads = [threading.Thread(target=write, args=(shell,)) for shell in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(FileContexts(file).load().contexts) == 32


def test_ci9_a_lock_that_another_holds_for_long_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts_module, "LOCK_S", 0.05)
    with (tmp_path / "contexts.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match=r"another session has held .*contexts\.lock for 0\.05 s"):
            FileContexts(tmp_path / "contexts.json").change(lambda kept: put_context(kept, context("heart")))


def test_ci9_a_switch_in_one_session_redirects_nothing_in_another(tmp_path: Path) -> None:
    kept = FileContexts(tmp_path / "contexts.json")
    kept.change(lambda _: book("heart", "lung", current="heart"))
    first, second = session_of(kept, tmp_path), session_of(kept, tmp_path)
    assert second.context.name == "heart"
    first.choose(LUNG)
    assert first.context.name == "lung"
    assert second.context.name == "heart"
    assert session_of(kept, tmp_path).context.name == "lung", "a session that begins later"


def test_ci9_after_the_current_context_is_deleted_none_is_chosen(tmp_path: Path) -> None:
    kept = FileContexts(tmp_path / "contexts.json")
    kept.change(lambda _: book("heart", "lung", current="lung"))
    session, other = session_of(kept, tmp_path), session_of(kept, tmp_path)
    session.choose(HEART)
    other.choose(LUNG)
    session.forget(HEART)
    with pytest.raises(ConfigurationError, match=r"no context is chosen: CREATE CONTEXT .* there are: lung"):
        _ = session.context
    session.forget(LUNG)
    with pytest.raises(NotFound, match="there is no context lung; there are: none"):
        _ = other.context


def test_ci9_dropping_a_context_keeps_the_default_of_the_others() -> None:
    assert drop_context(book("heart", "lung", current="heart"), LUNG).current == "heart"
    assert drop_context(book("heart", "lung", current="heart"), HEART).current == ""
    with pytest.raises(NotFound, match="there is no context liver; there are: heart, lung"):
        find_context(book("heart", "lung"), ContextName("liver"))


def test_a_sessions_own_context_is_current_and_never_kept() -> None:
    shared = MemoryContexts(book("heart", "this-session", current="heart"))
    own = OwnContext(shared, context("this-session", port=1))
    assert own.load().current == OWN
    assert find_context(own.load(), None).sn.port == 1
    own.change(lambda kept: put_context(kept, context("lung")))
    own.change(lambda kept: put_context(kept, set_variable(find_context(kept, OWN), VariableName("V"), "1")))
    assert find_context(own.load(), OWN).variables == {"V": "1"}
    assert shared.load() == book("heart", "lung", "this-session", current="heart")
    own.change(lambda kept: replace(kept, current=LUNG))
    assert shared.load().current == LUNG
    own.change(lambda kept: drop_context(kept, OWN))
    assert own.load() == shared.load() == book("heart", "lung", "this-session", current="lung")


def test_dropping_the_default_beside_an_own_context_leaves_no_default() -> None:
    shared = MemoryContexts(book("heart", current="heart"))
    OwnContext(shared, context("this-session")).change(lambda kept: drop_context(kept, HEART))
    assert shared.load() == Book()


# --- CI-10: variables -----------------------------------------------------------------------------------------------


def test_ci10_a_variable_of_the_current_context_counts_before_the_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWCI_RUN_TASK_MAX_WAIT_TIME", "7")
    made = set_variable(context("heart"), VariableName("SWCI_RUN_TASK_MAX_WAIT_TIME"), "9")
    session = session_of(MemoryContexts(Book(contexts=(made, context("lung")), current=HEART)), tmp_path)
    assert session.variable("SWCI_RUN_TASK_MAX_WAIT_TIME", "120") == "9"
    session.choose(LUNG)
    assert session.variable("SWCI_RUN_TASK_MAX_WAIT_TIME", "120") == "7"
    monkeypatch.delenv("SWCI_RUN_TASK_MAX_WAIT_TIME")
    assert session.variable("SWCI_RUN_TASK_MAX_WAIT_TIME", "120") == "120"


# --- CI-11: files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A root with a directory and links out of it, beside a secret."""
    (tmp_path / "secret").write_text("key")
    root = tmp_path / "root"
    (root / "taskdefs").mkdir(parents=True)
    (root / "taskdefs" / "build.yaml").write_text("Name: build")
    (root / "out").symlink_to(tmp_path)
    return root


@pytest.mark.parametrize(
    "name", ["../secret", "taskdefs/../../secret", "out/secret", "{above}/secret", "/etc/passwd", "~"]
)
def test_ci11_no_file_outside_the_root_is_read(files: Path, name: str) -> None:
    directory = Directory(files)
    with pytest.raises(ConfigurationError, match=r"lies outside .*/root; files stay below it"):
        directory.read(name.format(above=files.parent))
    assert directory.read("taskdefs/build.yaml") == b"Name: build"


def test_ci11_the_products_directory_is_where_the_session_began(files: Path) -> None:
    below = Directory(files)
    below.enter("taskdefs")
    below.enter("/platform/swarm/usr/taskdefs")
    assert below.here == files / "taskdefs"
    anywhere = Directory(Path("/"), files)
    anywhere.enter("/")
    assert anywhere.read("/platform/swarm/usr/taskdefs/build.yaml") == b"Name: build"


def test_ci11_names_are_listed_with_directories_marked(files: Path) -> None:
    (files / "swci-init").touch()
    assert [file.name for file in Directory(files).files()] == ["out", "swci-init", "taskdefs"]
    os.mkfifo(files / "pipe")
    with pytest.raises(ConfigurationError, match="pipe is no file below"):
        Directory(files).read("pipe")
