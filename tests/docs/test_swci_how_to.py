"""What `steer-with-swci.md` shows is what happens: shells, scripts and pipes, one after another on a real swarm."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from swci_world import A, B, Swarm, process_environment, running_swarm

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "steer-with-swci.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with running_swarm(tmp_path_factory.mktemp("how-to") / "w") as made:
        yield made


def blocks(language: str, section: str) -> list[str]:
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


class Here:
    """The page's places and names as they are in the test's swarm."""

    def __init__(self, swarm: Swarm, tmp_path: Path) -> None:
        self.swarm = swarm
        self.environment = process_environment(tmp_path / "config")
        a, b = swarm.identity(), swarm.identity(domain=B)
        self._names = {
            "10.0.0.1 30304": f"{swarm.sn().host} {swarm.sn().port}",
            "10.0.0.1:30304": str(swarm.sn()),
            "10.0.0.2:30304": str(swarm.sn(B)),
            "/home/anna/pki/anna.cert.pem": a.cert,
            "pki/anna.cert.pem": a.cert,
            "pki/anna.key.pem": a.key,
            "pki/hospital-a.example.ca.pem": a.cacert,
            "lung/anna.cert.pem": b.cert,
            "lung/anna.key.pem": b.key,
            "lung/hospital-b.example.ca.pem": b.cacert,
            "spiffe://hospital-a.example/heart/operator/anna": f"spiffe://{A}/local/operator/ci-operator",
            "spiffe://hospital-b.example/lung/operator/anna": f"spiffe://{B}/local/operator/ci-operator",
            "/srv/swci": str(tmp_path),
        }

    def translate(self, text: str) -> str:
        for name in sorted(self._names, key=len, reverse=True):
            text = text.replace(name, self._names[name])
        return text

    def run(self, words: list[str], stdin: str = "", cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        assert words[:2] == ["swarm", "ci"]
        command = [sys.executable, "-m", "swarmlearning", *words[1:]]
        return subprocess.run(
            command, input=stdin, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
        )


def test_the_page_is_true_from_its_first_step_to_its_last(swarm: Swarm, tmp_path: Path) -> None:
    here = Here(swarm, tmp_path)
    # Shells: what is typed is read from a pipe here, and makes the same transcript.
    for section in ("First steps", "Two networks"):
        (started,) = re.findall(r"^\$ (swarm ci .*)$", "".join(blocks("console", section)), flags=re.MULTILINE)
        (transcript,) = (here.translate(text) for text in blocks("text", section))
        typed = re.findall(r"^SWCI:\d+ > (.*)$", transcript, flags=re.MULTILINE)
        done = here.run(shlex.split(here.translate(started)), "\n".join(typed))
        assert done.stdout == transcript, done.stderr
    # Scripts, each letter case. The identity is the one that the context has.
    (called,) = re.findall(r"^\$ (.*)$", "".join(blocks("console", "Scripts")), flags=re.MULTILINE)
    scripts = blocks("text", "Scripts")
    assert [script.isupper() or script.islower() for script in scripts[1:]] == [True, False]
    for script in scripts:
        (tmp_path / "swci-init").write_text(here.translate(script))
        done = here.run(shlex.split(here.translate(called)), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ERROR" not in done.stdout
    # Single commands and pipes.
    for block in blocks("console", "For other programs"):
        line, _, expected = here.translate(block).removeprefix("$ ").partition("\n")
        piped, _, command = line.rpartition(" | ")
        stdin = shlex.split(piped)[1] if piped else ""
        # The default is the network that was switched to last, which has these contracts.
        done = here.run(shlex.split(command), stdin)
        assert done.stdout == expected, done.stderr
        assert done.returncode == 0
