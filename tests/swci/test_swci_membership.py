"""LIST PROPOSALS, GET PROPOSAL INFO, VOTE, WITHDRAW PROPOSAL: docs/spec/swci-looking.md, CI-47; rules M-9 and M-10."""

from pathlib import Path

from chain_world import authority
from governance_world import admission, org
from looking_world import Network, on_a_network

from swarmlearning.contracts.proposals import ExpelOrganisation
from swarmlearning.encoding import sha256
from swarmlearning.errors import ExitCode

EXPEL = ExpelOrganisation(domain=org(2))


def test_ci47_a_proposal_is_listed_explained_voted_on_and_carried(tmp_path: Path) -> None:
    async def work(network: Network) -> None:
        desk = network.desk()
        assert await desk.lines("LIST PROPOSALS") == [
            "members  4: org0.example, org1.example, org2.example, org3.example",
            "nothing is proposed",
        ]
        await network.propose(1, admission(4), reason="the new\thospital")
        lines = await desk.lines("GET PROPOSAL INFO 1")
        assert lines[:2] == [
            "proposal 1: admit org4.example (open)",
            f"  CA       {sha256(authority('org4.example')).hex()}",
        ]
        assert lines[2].startswith("  by       org1.example, 2027-")
        assert lines[3:5] == [
            "  yes      org1.example (1 of 3 that are needed)",
            "  missing  org0.example, org2.example, org3.example; 13 d 23 h left",
        ]
        assert lines[5] == "  vote     VOTE 1 yes|no"
        assert (await desk.lines("LIST PROPOSALS"))[1:] == lines

        voted = await desk.lines("vote 1 no")
        assert "  no       org0.example" in voted
        voted = await desk.lines("VOTE 1 Yes")
        assert "  yes      org0.example, org1.example (2 of 3 that are needed)" in voted, "its last vote counts"
        assert not any(line.startswith("  no ") for line in voted)
        await network.vote(2, 1, admission(4))
        carried = await desk.run("GET PROPOSAL INFO 1")
        assert (carried.answer.state, carried.answer.left_s, carried.answer.missing) == ("carried", 0, ())
        late = await desk.run("VOTE 1 NO")
        assert (late.status, "proposal 1 is carried" in late.error) == (ExitCode.PEER, True)

        assert (await desk.lines("LIST PROPOSALS"))[1:] == [
            "nothing is proposed",
            "1 more not shown; LIST PROPOSALS ALL shows the closed ones",
        ]
        everything = await desk.lines("LIST PROPOSALS all")
        assert "proposal 1: admit org4.example (carried)" in everything
        assert (await desk.run("LIST PROPOSALS")).answer.left_out == 1
        assert (await desk.run("LIST PROPOSALS ALL")).answer.left_out == 0

    on_a_network(tmp_path, work, 4)


def test_ci47_only_its_own_proposal_an_organisation_takes_back(tmp_path: Path) -> None:
    async def work(network: Network) -> None:
        desk = network.desk()
        await network.propose(0, admission(3))
        await network.propose(1, EXPEL)
        assert (await desk.lines("WITHDRAW PROPOSAL 1"))[0] == "proposal 1: admit org3.example (withdrawn)"
        refused = await desk.run("WITHDRAW PROPOSAL 2")
        assert refused.status is ExitCode.PEER
        assert "org1.example" in refused.error

    on_a_network(tmp_path, work)


def test_ci47_a_proposal_that_is_not_there_is_told_with_the_open_ones(tmp_path: Path) -> None:
    async def work(network: Network) -> None:
        desk = network.desk()
        await network.propose(1, EXPEL)
        for command in ("GET PROPOSAL INFO 7", "VOTE 7 YES"):
            assert await desk.lines(command) == ["ERROR there is no proposal 7; open are: 1"]
        for wrong in ("VOTE 1 MAYBE", "VOTE one YES", "LIST PROPOSALS SOME"):
            done = await desk.run(wrong)
            assert done.status is ExitCode.CONFIGURATION
            assert "usage: " in done.error

    on_a_network(tmp_path, work)


def test_ci49_a_reason_is_shown_without_control_characters(tmp_path: Path) -> None:
    async def work(network: Network) -> None:
        await network.propose(1, EXPEL, reason="it \u202e is late")
        assert any(line.endswith(": it ? is late") for line in await network.desk().lines("LIST PROPOSALS"))

    on_a_network(tmp_path, work)
