"""The shell: a prompt with history, completion and help; a command at a time, which Ctrl-C interrupts.

Spec: docs/spec/swci.md, CI-18 and CI-19.
"""

import asyncio
import contextlib
import functools
import os
import re
import signal
import textwrap
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app, run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import History
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

from swarmlearning import __version__
from swarmlearning.errors import ExitCode, SwarmError
from swarmlearning.identity.files import SECRET_MODE
from swarmlearning.reports.status import make_printable
from swarmlearning.swci.completing import explain_typed, find_offers, places, read_typed
from swarmlearning.swci.entries import Entry
from swarmlearning.swci.names import Names
from swarmlearning.swci.running import Done, run_line
from swarmlearning.swci.screen import Screen
from swarmlearning.swci.script import is_empty
from swarmlearning.swci.session import Session

KEYS: Final = "Tab completes, F1 helps, Ctrl-D leaves"

MAX_HISTORY: Final = 2000
"""How many lines are remembered."""

MAX_HISTORY_BYTES: Final = 1 << 20

_END: Final = re.compile(r"\r\n|\r|\n")


class Shell:
    """Reads lines from a terminal and carries them out, until it is told to end."""

    def __init__(
        self,
        entries: Sequence[Entry],
        session: Session,
        screen: Screen,
        history: Path,
        *,
        input: Input | None = None,  # noqa: A002  # as prompt_toolkit calls it
        output: Output | None = None,
    ) -> None:
        """A shell on a terminal: this process's, or `input` and `output`."""
        self._entries = entries
        self._session = session
        self._screen = screen
        self._names = Names(session)
        self._number = 1
        self._helping = False
        self._names.expire()
        self._where = ""
        self._prompts: PromptSession[str] = PromptSession(
            history=LineHistory(history),
            completer=TableCompleter(entries, session, self._names),
            complete_while_typing=False,
            bottom_toolbar=self._toolbar,
            key_bindings=self._bindings(),
            input=input,
            output=output,
        )

    async def run(self) -> ExitCode:
        """CI-19: until EXIT, Ctrl-D, or a failure after EXIT ON FAILURE, whose status it returns."""
        self._greet()
        try:
            while not self._session.ended:
                try:
                    text = await self._ask()
                except KeyboardInterrupt:
                    continue  # what was typed is dropped
                except EOFError:
                    break
                failed = await self._carry_out(text)
                if failed is not None and self._session.exit_on_failure:
                    return failed.status
            return ExitCode.OK
        finally:
            await self._names.close()

    async def _ask(self) -> str:
        self._helping = False
        self._names.expire()
        self._where = self._describe_context()
        return await self._prompts.prompt_async(f"SWCI:{self._number} > ")

    async def _carry_out(self, text: str) -> Done | None:
        """Carry out what was typed, and return the failure that ended it, if one did."""
        # Several lines come by pasting: each is a command.
        lines = [line for line in _END.split(text) if not is_empty(line)]
        failed: Done | None = None
        for index, line in enumerate(lines):
            if index:
                self._screen.say(f"SWCI:{self._number} > {make_printable(line)}")
            self._number += 1
            done = await self._interruptible(line)
            self._screen.show(done, as_json=self._session.as_json)
            if done.status is ExitCode.INTERRUPTED:
                return None  # that is nobody's failure; what was pasted after it is dropped
            failed = done if done.failed else None
            if self._session.ended or (failed and self._session.exit_on_failure):
                break
        return failed

    async def _interruptible(self, line: str) -> Done:
        """What comes of a line; Ctrl-C ends the command, not the shell."""
        task = asyncio.ensure_future(run_line(self._entries, self._session, line))
        with self._listening(task):
            try:
                return await task or Done()
            except asyncio.CancelledError:
                if (ours := asyncio.current_task()) is not None and ours.cancelling():
                    task.cancel()
                    raise
                self._screen.say("")  # after the terminal's ^C
                return Done(error=f"interrupted: {make_printable(line.strip())}", status=ExitCode.INTERRUPTED)

    @contextlib.contextmanager
    def _listening(self, task: "asyncio.Task[Done | None]") -> Iterator[None]:
        loop = asyncio.get_running_loop()
        before = signal.getsignal(signal.SIGINT)
        loop.add_signal_handler(signal.SIGINT, task.cancel)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            if before is not None:
                signal.signal(signal.SIGINT, before)

    # --- what is around the prompt ------------------------------------------------------------------------------------

    def _greet(self) -> None:
        self._screen.say(f"Swarm Learning {__version__}: HELP lists the commands, F1 helps with the one you type.")
        self._screen.say(self._describe_context())

    def _describe_context(self) -> str:
        try:
            book = self._session.book
            if not book.current:
                return "No context yet: CREATE CONTEXT"
            return f"Context {book.current}: {self._session.context.sn}"
        except SwarmError as error:
            return make_printable(str(error))

    def _toolbar(self) -> str:
        if not self._helping:
            return f" {self._where} │ {KEYS}"
        return "\n".join(f" {line}" for line in self._help_lines())

    def _help_lines(self) -> list[str]:
        app = get_app()
        columns = max(20, app.output.get_size().columns - 1)
        lines = explain_typed(self._entries, app.current_buffer.document.text_before_cursor)
        return [part for line in lines for part in _fold(line, columns)]

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()

        @bindings.add("f1")
        def _toggle(event: KeyPressEvent) -> None:
            self._help(event, on=not self._helping)

        @bindings.add("?", filter=Condition(self._asks_for_help))
        def _show(event: KeyPressEvent) -> None:
            self._help(event, on=True)

        return bindings

    def _help(self, event: KeyPressEvent, *, on: bool) -> None:
        """Show help below the prompt; above it on a terminal that does not tell where the prompt is."""
        if event.app.renderer.height_is_known:
            self._helping = on
            event.app.invalidate()
        else:
            run_in_terminal(functools.partial(self._tell_all, self._help_lines()))

    def _tell_all(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._screen.say(line)

    def _asks_for_help(self) -> bool:
        """Whether a `?` is no part of a word: where a new one may begin, and none that may be any text."""
        document = get_app().current_buffer.document
        typed = read_typed(document.text_before_cursor)
        if typed is None or typed.started or typed.quoted or document.text_after_cursor.strip():
            return False
        return not any(place.part.is_rest for place in places(self._entries, typed.words)) or not typed.words


def _fold(line: str, columns: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, columns, subsequent_indent=indent) or [""]


class TableCompleter(Completer):
    """Offers what may come next by the table of commands."""

    def __init__(self, entries: Sequence[Entry], session: Session, names: Names) -> None:
        self._entries = entries
        self._session = session
        self._names = names

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Nothing: names are asked for while one types."""
        del document, complete_event
        return ()

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """What may stand at the cursor."""
        del complete_event
        text = document.text_before_cursor
        typed = read_typed(text)
        if typed is None:
            return
        for offer in await find_offers(self._entries, text, self._names.get, self._session.directory):
            yield Completion(offer.text, typed.start - len(text), display_meta=offer.about)


class LineHistory(History):
    """The lines that were typed, in a file of the user's alone; one that cannot be used is done without."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """The newest lines, the newest first."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_HISTORY_BYTES))
                lines = file.read(MAX_HISTORY_BYTES).decode(errors="replace").splitlines()
        except OSError:
            return []
        return [line for line in lines[: -MAX_HISTORY - 1 : -1] if line]

    def store_string(self, string: str) -> None:
        """Remember what was typed."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            with os.fdopen(os.open(self._path, flags, SECRET_MODE), "ab") as file:
                os.fchmod(file.fileno(), SECRET_MODE)
                file.write(string.encode(errors="replace") + b"\n")
        except OSError:
            pass
