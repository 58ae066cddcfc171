"""`Swci`: the command interface for Python programs, over the REST service that `swarm ci --web` runs.

Programs written for the product that we re-create run with it; its names are camelCase for that reason only. What it
does not do is steer a network by itself: whatever it asks for, the service does. Spec: docs/spec/swci-python.md.
"""

import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from swarmlearning.errors import ConfigurationError
from swarmlearning.swci.commander import (
    REQUEST_S,
    Commander,
    Raw,
    SwciError,
    check_seconds,
    choose_logger,
    find_identity,
    open_service,
    read_level,
)
from swarmlearning.swci.node_rows import read_nodes
from swarmlearning.swci.runner_waiting import LONGEST_S, read_status
from swarmlearning.swci.runner_work import RunnerWork
from swarmlearning.swci.topology import SL_COLOUR, SN_COLOUR, SWOP_COLOUR, TopologyPng, draw_topology
from swarmlearning.types import SN_API_PORT

__all__ = ["DEFAULT_CONTRACT", "DEFAULT_RUNNER", "Swci", "SwciError"]

DEFAULT_CONTRACT: Final = "defaultbb.cqdb.sml.hpe"
DEFAULT_RUNNER: Final = "defaulttaskbb.taskdb.sml.hpe"
"""What the product's own examples use."""

MAX_TASK_FILE_BYTES: Final = 4 << 20
"""Largest task file that is uploaded."""


class Swci:
    """One operator's hand on a swarm, by a REST service of the operator's own organisation.

    A method that fails answers with an empty list, and `getErrors` says why; with `raiseErrors` it raises. Where an
    empty answer would mislead (`isTaskDone`, `uploadTaskDefinition`) it raises in either case, `SwciError` without
    `raiseErrors`. Commands are carried out in a session of the operator at the service: context and directory are kept
    there between programs. An object may be used by several threads; `getErrors` is each thread's own.

    Raises:
        SwarmError: with `raiseErrors`, from any method: a command that was not carried out is `Refused`, a service
            that does not answer `Unreachable`, one that is not ours `VerificationError`, a bad argument
            `ConfigurationError`.
    """

    def __init__(
        self,
        swciIp: str,
        port: int = 30306,
        clientCert: str | Path | None = None,
        clientPKey: str | Path | None = None,
        clientCABundle: str | Path | None = None,
        logger: logging.Logger | None = None,
        logLv: int | str = logging.WARNING,
        enableCaching: bool = True,
        *,
        raiseErrors: bool = False,
        timeoutInSec: float = REQUEST_S,
    ) -> None:
        """Speak to the service at an address. Nothing is sent yet.

        Args:
            swciIp: its host.
            port: its port.
            clientCert: an operator's certificate, PEM; else `SWARM_ID_CERT`.
            clientPKey: its key; else that in the certificate's file, or `SWARM_ID_KEY`.
            clientCABundle: CA certificates of the operator's own organisation, a file or a directory; else
                `SWARM_ID_CACERT` or `SWARM_ID_CAPATH`.
            logger: where it is said what happens; else a logger of our own.
            logLv: from which level on our own logger speaks.
            enableCaching: what cannot change any more is asked for once.
            raiseErrors: failures are raised instead of answered by an empty list.
            timeoutInSec: how long a command may take that does not wait for anything, seconds.

        Raises:
            ConfigurationError: an argument is not what it must be.
            IdentityError: certificate, key or CA certificates are not given, missing, expired or do not match.
        """
        self._logger = choose_logger(logger, logLv)
        limit_s = check_seconds("timeoutInSec", timeoutInSec, least=0.001)
        source = find_identity(clientCert, clientPKey, clientCABundle, os.environ)
        self._service = open_service(swciIp, port, source)
        self._commander = Commander(
            self._service, self._logger, raise_errors=raiseErrors, remembers=enableCaching, limit_s=limit_s
        )
        self._work = RunnerWork(self._commander, self._logger)
        self._limit_s = limit_s
        # What most methods are made of.
        self._do = self._commander.do
        self._ask = self._commander.ask

    def __repr__(self) -> str:
        return f"Swci({self._service.endpoint}, as {self._service.tls.node.short})"

    # --- this object ------------------------------------------------------------------------------------------------

    def getErrors(self) -> str | None:
        """What went wrong in this thread's last call, a line beginning with `ERROR `; None if nothing did."""
        return self._commander.failure

    def setLogLevel(self, logLv: int | str) -> None:
        """Speak from another level on: a number or a name of `logging`.

        Raises:
            ConfigurationError: there is no such level.
        """
        self._logger.setLevel(read_level(logLv))

    def clearCache(self) -> None:
        """Forget what was remembered of tasks that cannot change."""
        self._commander.forget()

    def execute(self, cmd: str, timeoutInSec: float | None = None) -> list[str]:
        """Any command, written as in the shell; `timeoutInSec` seconds at most, by default long for one that waits."""
        return self._commander.run_line(cmd, timeoutInSec)

    # --- files and time ---------------------------------------------------------------------------------------------

    def ls(self, optStr: str = "") -> list[str]:
        """`LS`: the files of the session's directory."""
        return self._do("LS {}", optStr) if optStr else self._do("LS")

    def pwd(self) -> list[str]:
        """`PWD`: the session's directory."""
        return self._do("PWD")

    def cd(self, dirPath: str | Path) -> list[str]:
        """`CD`: go to another directory."""
        return self._do("CD {}", dirPath)

    def sleep(self, sleepTime: float) -> list[str]:
        """`SLEEP`: let so many seconds pass."""

        def rest() -> list[str]:
            seconds = math.ceil(check_seconds("sleepTime", sleepTime))  # the command takes whole ones
            return self._ask("SLEEP {}", seconds, limit_s=seconds + self._limit_s)

        return self._commander.attempt(rest, [])

    def uploadTaskDefinition(self, taskFilePath: str | Path) -> str:
        """Put a local task file into the session's directory, for `createTaskFrom`; the answer is the service's.

        Raises:
            SwciError: it cannot be read, or was not taken.
        """

        def upload() -> str:
            path = Path(taskFilePath).expanduser().resolve()
            return self._service.upload(path.name, _read_task_file(path), self._limit_s)

        return self._commander.demand(upload)

    def uploadTaskDefintion(self, taskFilePath: str | Path) -> str:
        """The same, as the product spells it.

        Raises:
            SwciError: see `uploadTaskDefinition`.
        """
        return self.uploadTaskDefinition(taskFilePath)

    # --- contexts ---------------------------------------------------------------------------------------------------

    def createContext(
        self, ctxName: str, ip: str | None = None, port: int = SN_API_PORT, service: str | None = None
    ) -> list[str]:
        """`CREATE CONTEXT`: name a network by its SN's address (`ip`, `port`) or by a `service` (`fqdn[:port]`).

        Raises:
            SwciError: neither `ip` nor `service` is given.
        """
        self._commander.forget()
        if ip is not None:
            return self._do("CREATE CONTEXT {} WITH IP {} {}", ctxName, ip, port)
        if service is not None:
            return self._do("CREATE CONTEXT {} WITH SERVICE {}", ctxName, service)
        return self._commander.demand(_refuse_context)

    def switchContext(self, ctxName: str) -> list[str]:
        """`SWITCH CONTEXT`: commands are about this network from now on."""
        self._commander.forget()
        return self._do("SWITCH CONTEXT {}", ctxName)

    def deleteContext(self, ctxName: str) -> list[str]:
        """`DELETE CONTEXT`: forget the name of a network."""
        self._commander.forget()
        return self._do("DELETE CONTEXT {}", ctxName)

    def listContexts(self) -> list[str]:
        """`LIST CONTEXTS`: all contexts."""
        return self._do("LIST CONTEXTS")

    def getContextInfo(self, ctxName: str | None = None) -> list[str]:
        """`GET CONTEXT INFO`: a context, or the current one."""
        return self._do("GET CONTEXT INFO") if ctxName is None else self._do("GET CONTEXT INFO {}", ctxName)

    def getContextVersion(self) -> list[str]:
        """`GET CONTEXT VERSION`: the version of the current context's SN."""
        return self._do("GET CONTEXT VERSION")

    def listContextEnv(self, ctxName: str | None = None) -> list[str]:
        """`LIST CONTEXT ENV`: the variables of a context, or of the current one."""
        return self._do("LIST CONTEXT ENV") if ctxName is None else self._do("LIST CONTEXT ENV {}", ctxName)

    def getContextEnv(self, varName: str, ctxName: str | None = None) -> list[str]:
        """`GET CONTEXT ENV`: a variable of a context, or of the current one."""
        if ctxName is None:
            return self._do("GET CONTEXT ENV {}", varName)
        return self._do("GET CONTEXT ENV {} {}", ctxName, varName)

    def setContextEnv(self, varName: str, value: str, ctxName: str | None = None) -> list[str]:
        """`SET CONTEXT ENV`: set a variable of a context, or of the current one."""
        if ctxName is None:
            return self._do("SET CONTEXT ENV {} {}", varName, value)
        return self._do("SET CONTEXT ENV {} {} {}", ctxName, varName, value)

    # --- training contracts -----------------------------------------------------------------------------------------

    def createTrainingContract(self, ctName: str) -> list[str]:
        """`CREATE CONTRACT`: make a contract that peers train under."""
        return self._do("CREATE CONTRACT {}", ctName)

    def listTrainingContracts(self) -> list[str]:
        """`LIST CONTRACTS`: all contracts."""
        return self._do("LIST CONTRACTS")

    def getTrainingContractInfo(self, ctName: str) -> list[str]:
        """`GET CONTRACT INFO`: how a contract is set up."""
        return self._do("GET CONTRACT INFO {}", ctName)

    def getTrainingContractStatus(self, ctName: str) -> list[str]:
        """`GET CONTRACT STATUS`: where a contract stands."""
        return self._do("GET CONTRACT STATUS {}", ctName)

    def getTrainingContractPerformanceData(self, ctName: str = DEFAULT_CONTRACT) -> list[str]:
        """`PERFDATA`: loss, metric and epochs of each peer."""
        return self._do("PERFDATA {}", ctName)

    def getContractHistory(self, ctName: str, rounds: int | None = None) -> list[str]:
        """`GET CONTRACT HISTORY`: the newest rounds of a contract, `rounds` of them at most."""
        if rounds is None:
            return self._do("GET CONTRACT HISTORY {}", ctName)
        return self._do("GET CONTRACT HISTORY {} {}", ctName, rounds)

    def listPeers(self, ctName: str | None = None) -> list[str]:
        """`LIST PEERS`: who trains under a contract, or under the only one that is in use."""
        return self._do("LIST PEERS") if ctName is None else self._do("LIST PEERS {}", ctName)

    def resetTrainingContract(self, ctName: str = DEFAULT_CONTRACT) -> list[str]:
        """`RESET CONTRACT`: make a contract ready for another training."""
        return self._do("RESET CONTRACT {}", ctName)

    # --- tasks ------------------------------------------------------------------------------------------------------

    def createTaskFrom(self, yamlFileName: str | Path) -> list[str]:
        """`CREATE TASK FROM`: register the task that a file of the session's directory defines."""
        return self._do("CREATE TASK FROM {}", yamlFileName)

    def registerTask(self, yamlFileName: str | Path, finalize: bool = True) -> list[str]:
        """`createTaskFrom`, then `finalizeTask`: `['Registered Task : <name>']`; without `finalize` all its lines."""

        def register() -> list[str]:
            lines = self._ask("CREATE TASK FROM {}", yamlFileName)
            said = next((line for line in lines if "Task Registered" in line), "")
            name = said.partition(":")[2].strip()
            if not finalize or not name:
                return lines
            self._about_final("FINALIZE TASK {}", name)
            return [f"Registered Task : {name}"]

        return self._commander.attempt(register, [])

    def createTask(self, taskType: str, taskName: str, author: str, prereq: str, outcome: str) -> list[str]:
        """`CREATE TASK`: register a task with an empty body, for `appendTaskBody`."""
        return self._do("CREATE TASK {} {} {} {} {}", taskType, taskName, author, prereq, outcome)

    def appendTaskBody(self, taskName: str, idx: int, line: str) -> list[str]:
        """`APPEND TASK BODY`: write a line of a task's body, counted from 1."""
        return self._do("APPEND TASK BODY {} {} {}", taskName, idx, Raw(line))

    def finalizeTask(self, taskName: str) -> list[str]:
        """`FINALIZE TASK`: it can be assigned from now on, and never changed."""
        return self._commander.attempt(lambda: self._about_final("FINALIZE TASK {}", taskName), [])

    def deleteTask(self, taskName: str) -> list[str]:
        """`DELETE TASK`: forget a task that is not final."""
        return self._do("DELETE TASK {}", taskName)

    def approveTask(self, taskName: str) -> list[str]:
        """`APPROVE TASK`: let all agents (SWOP) of the own organisation carry out a task, from now on."""
        return self._commander.attempt(lambda: self._about_final("APPROVE TASK {}", taskName), [])

    def denyTask(self, taskName: str) -> list[str]:
        """`DENY TASK`: forbid all agents (SWOP) of the own organisation to carry out a task, from now on."""
        return self._commander.attempt(lambda: self._about_final("DENY TASK {}", taskName), [])

    def listTasks(self) -> list[str]:
        """`LIST TASKS`: all tasks."""
        return self._do("LIST TASKS")

    def getTaskInfo(self, taskName: str) -> list[str]:
        """`GET TASK INFO`: a task without its body, and which organisations approved or denied it."""
        return self._commander.look("GET TASK INFO {}", taskName)

    def getTaskBody(self, taskName: str) -> list[str]:
        """`GET TASK BODY`: a task's body."""
        return self._commander.recall("GET TASK BODY {}", taskName)

    def _about_final(self, template: str, task: str) -> list[str]:
        """A command that makes a task final, or is refused of one that is not."""
        lines = self._ask(template, task)
        self._commander.note_final(task)
        return lines

    # --- taskrunners ------------------------------------------------------------------------------------------------

    def createTaskRunner(self, trName: str) -> list[str]:
        """`CREATE TASKRUNNER`: make a taskrunner, which agents (SWOP) listen to."""
        return self._do("CREATE TASKRUNNER {}", trName)

    def listTaskRunners(self) -> list[str]:
        """`LIST TASKRUNNERS`: all taskrunners."""
        return self._do("LIST TASKRUNNERS")

    def getTaskRunnerInfo(self, trName: str) -> list[str]:
        """`GET TASKRUNNER INFO`: how a taskrunner is set up."""
        return self._do("GET TASKRUNNER INFO {}", trName)

    def getTaskRunnerStatus(self, trName: str) -> list[str]:
        """`GET TASKRUNNER STATUS`: which task a taskrunner has, and how far it is."""
        return self._do("GET TASKRUNNER STATUS {}", trName)

    def getTaskRunnerPeerStatus(self, trName: str, idx: int | str) -> list[str]:
        """`GET TASKRUNNER PEER STATUS`: how far one agent is, by its number from 0 on, or by its UUID."""
        return self._do("GET TASKRUNNER PEER STATUS {} {}", trName, idx)

    def listTaskRunnerPeers(self, trName: str) -> list[str]:
        """`LIST TASKRUNNER PEERS`: the agents of a taskrunner."""
        return self._do("LIST TASKRUNNER PEERS {}", trName)

    def resetTaskRunner(self, trName: str = DEFAULT_RUNNER) -> list[str]:
        """`RESET TASKRUNNER`: make a taskrunner ready for another task; its containers are removed."""
        return self._do("RESET TASKRUNNER {}", trName)

    def assignTask(self, taskName: str, trName: str, peers: int) -> list[str]:
        """`ASSIGN TASK … WITH n PEERS`: have a task carried out; it is complete when `peers` of them have completed."""
        return self._do("ASSIGN TASK {} TO {} WITH {} PEERS", taskName, trName, peers)

    def assignTaskToAll(self, taskName: str, trName: str) -> list[str]:
        """`ASSIGN TASK … WITH ALL PEERS`: have a task carried out by all agents that listen now."""
        return self._do("ASSIGN TASK {} TO {} WITH ALL PEERS", taskName, trName)

    def assignTaskToTarget(self, taskName: str, trName: str, swopUid: str) -> list[str]:
        """`ASSIGN TASK … TARGET`: have a task carried out by one agent; it may join a task that goes on."""
        return self._do("ASSIGN TASK {} TO {} TARGET {}", taskName, trName, swopUid)

    def isTaskDone(self, trName: str) -> bool:
        """Whether a taskrunner does nothing: its task ended, in whatever way, or it has none.

        Raises:
            SwciError: its status is not known.
        """
        return self._commander.demand(lambda: read_status(self._ask("GET TASKRUNNER STATUS {}", trName)).is_done)

    def waitForTaskRunner(
        self,
        trName: str = DEFAULT_RUNNER,
        timeoutInSec: float = LONGEST_S,
        callback: Callable[[list[str]], object] | None = None,
        pollWaitInSec: float = 5,
    ) -> list[str]:
        """Wait until a taskrunner does nothing any more; the answer is its status, whether or not its task completed.

        `callback` is given the lines of its status whenever it was asked and the wait goes on.
        """
        return self._commander.attempt(
            lambda: list(self._work.wait(trName, timeoutInSec, pollWaitInSec, callback).lines), []
        )

    def executeTask(
        self,
        taskName: str,
        tr: str = DEFAULT_RUNNER,
        peers: int = 1,
        pollWaitInSec: float = 120,
        resetTROnSuccess: bool = True,
        *,
        timeoutInSec: float = LONGEST_S,
    ) -> list[str]:
        """Assign a task, wait for its end, and reset the taskrunner if it completed.

        The answer is the taskrunner's status and that of each of its peers, after lines of `=`. A task that did not
        complete is a failure with its reason; its taskrunner is not reset, so that one can look. An interrupt (Ctrl-C)
        ends the wait and not the task.
        """
        return self._commander.attempt(
            lambda: self._work.execute(
                taskName, tr, peers, limit_s=timeoutInSec, poll_s=pollWaitInSec, reset=resetTROnSuccess
            ),
            [],
        )

    # --- nodes ------------------------------------------------------------------------------------------------------

    def listNodes(self) -> list[str]:
        """`LIST NODES`: nodes as lines of CSV, a header first."""
        return self._do("LIST NODES")

    def nodes(self) -> list[dict[str, str]]:
        """The same as dictionaries, with the header's names as keys."""
        return self._commander.attempt(lambda: read_nodes(self._ask("LIST NODES")), [])

    def plotTopology(
        self,
        SNColour: str = SN_COLOUR,
        SWOPColor: str = SWOP_COLOUR,
        SLColor: str = SL_COLOUR,
        attrs: Sequence[str] | None = None,
    ) -> TopologyPng:
        """A picture of who belongs to whom: PNG bytes, which a notebook shows. Needs the extra `topology`.

        Colours are as matplotlib takes them, such as `#RRGGBB`. `attrs` are columns of `LIST NODES` to show beside the
        type and address of each node; by default its name alone is shown.
        """

        def plot() -> TopologyPng:
            colours = {"SN": SNColour, "SWOP": SWOPColor, "SL": SLColor}
            return draw_topology(read_nodes(self._ask("LIST NODES")), colours, attrs)

        return self._commander.attempt(plot, TopologyPng())

    # --- membership and ledger --------------------------------------------------------------------------------------

    def showStatus(self) -> list[str]:
        """`SHOW STATUS`: where the network, its ledger and its contracts stand."""
        return self._do("SHOW STATUS")

    def listMembers(self) -> list[str]:
        """`LIST MEMBERS`: the organisations of the network."""
        return self._do("LIST MEMBERS")

    def listProposals(self, which: str | None = None) -> list[str]:
        """`LIST PROPOSALS`: what the organisations vote on; with `which="all"` also what is decided."""
        return self._do("LIST PROPOSALS") if which is None else self._do("LIST PROPOSALS {}", which)

    def getProposalInfo(self, number: int) -> list[str]:
        """`GET PROPOSAL INFO`: a proposal and its votes."""
        return self._do("GET PROPOSAL INFO {}", number)

    def vote(self, number: int, choice: str) -> list[str]:
        """`VOTE`: vote on a proposal, `yes` or `no`."""
        return self._do("VOTE {} {}", number, choice)

    def withdrawProposal(self, number: int) -> list[str]:
        """`WITHDRAW PROPOSAL`: take back a proposal of the own organisation."""
        return self._do("WITHDRAW PROPOSAL {}", number)

    def exportLedger(self, fileName: str | Path, first: int | None = None) -> list[str]:
        """`EXPORT LEDGER`: write the history, from block `first` on, into a file of the session's directory."""
        if first is None:
            return self._do("EXPORT LEDGER {}", fileName)
        return self._do("EXPORT LEDGER {} {}", fileName, first)


def _refuse_context() -> list[str]:
    raise ConfigurationError("createContext: expected ip or service, the address of an SN")


def _read_task_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TASK_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"task file {path}: cannot be read ({error.strerror})") from error
    if len(data) > MAX_TASK_FILE_BYTES:
        raise ConfigurationError(f"task file {path}: more than {MAX_TASK_FILE_BYTES} bytes, the most that is uploaded")
    return data
