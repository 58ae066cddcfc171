"""Downloads from a real server that behaves and misbehaves. SW-67, SW-68."""

import asyncio
import hashlib
import time
from pathlib import Path

import pytest
from content_server import CONTENT, make_tls, serve

from swarmlearning.errors import TaskFailed
from swarmlearning.swop.content.downloading import PATIENCE, Downloaded, Patience, download
from swarmlearning.swop.content.urls import check_url, find_proxy, show_url

HASH = hashlib.sha256(CONTENT).hexdigest()


class Told(list[str]):
    """Lines that were told."""

    def __str__(self) -> str:
        return "\n".join(self)


async def fetch(
    url: str,
    path: Path,
    *,
    told: Told | None = None,
    most: int = 1 << 30,
    allowed: tuple[str, ...] = ("",),
    sha256: str | None = None,
    patience: Patience = PATIENCE,
) -> Downloaded:
    return await download(
        url,
        path,
        most=most,
        allow=lambda wanted: wanted.startswith(allowed),
        tell=(told if told is not None else Told()).append,
        sha256=sha256,
        patience=patience,
    )


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def nothing_left(directory: Path) -> bool:
    return names_in(directory) == []


async def begun(directory: Path) -> None:
    """Until there is something in a directory."""
    async with asyncio.timeout(20):
        while nothing_left(directory):  # noqa: ASYNC110  # the disk tells nobody
            await asyncio.sleep(0.01)


async def test_sw68_a_file_comes_whole_with_its_hash_and_progress(tmp_path: Path) -> None:
    told = Told()
    async with serve() as server:
        found = await fetch(f"{server.base}/file", tmp_path / "x", told=told, sha256=HASH.upper())
    assert found == Downloaded(size=len(CONTENT), sha256=HASH)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert names_in(tmp_path) == ["x"]
    assert told[-1] == f"x: {len(CONTENT)} bytes, SHA-256 {HASH}"
    tenths = [line for line in told if "%" in line]
    assert 1 <= len(tenths) <= 10
    assert f" of {len(CONTENT)} (" in tenths[0]


async def test_sw68_another_hash_than_the_tasks_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    async with serve() as server:
        with pytest.raises(TaskFailed, match=f"its SHA-256 is {HASH}, expected {'0' * 64}"):
            await fetch(f"{server.base}/file", tmp_path / "x", sha256="0" * 64)
    assert nothing_left(tmp_path)


async def test_sw68_a_failed_download_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("former")
    async with serve() as server:
        with pytest.raises(TaskFailed):
            await fetch(f"{server.base}/file", tmp_path / "x", sha256="0" * 64)
        assert (tmp_path / "x").read_text() == "former"
        await fetch(f"{server.base}/file", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


async def test_sw68_a_file_that_is_announced_as_too_large_is_not_begun(tmp_path: Path) -> None:
    async with serve() as server:
        with pytest.raises(TaskFailed, match=f"{len(CONTENT)} bytes, and this host's policy allows 1000 more"):
            await fetch(f"{server.base}/file", tmp_path / "x", most=1000)
        await fetch(f"{server.base}/file", tmp_path / "x", most=len(CONTENT))


async def test_sw68_a_stream_without_end_is_cut_off(tmp_path: Path) -> None:
    async with serve() as server:
        with pytest.raises(TaskFailed, match="more than 1000000 bytes"):
            await fetch(f"{server.base}/endless", tmp_path / "x", most=1_000_000)
    assert nothing_left(tmp_path)


async def test_sw68_a_server_that_says_more_than_it_sends_broke_off(tmp_path: Path) -> None:
    async with serve() as server:
        with pytest.raises(TaskFailed, match="broke off before all had come"):
            await fetch(f"{server.base}/short", tmp_path / "x")
    assert nothing_left(tmp_path)


async def test_sw68_a_server_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    async with serve() as server:
        with pytest.raises(TaskFailed, match="/silent: Timeout on reading data"):
            await fetch(f"{server.base}/silent", tmp_path / "x", patience=Patience(idle_s=0.3))
    assert nothing_left(tmp_path)


async def test_sw68_a_server_that_sends_byte_by_byte_is_given_up(tmp_path: Path) -> None:
    """The attack: never idle, never done."""
    async with serve() as server:
        begin = time.monotonic()
        with pytest.raises(TaskFailed, match=r"it took longer than 0\.5 s"):
            await fetch(f"{server.base}/dripping", tmp_path / "x", patience=Patience(total_s=0.5))
        assert time.monotonic() - begin < 20
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("code", [204, 206, 304, 401, 404, 500])
async def test_sw68_any_other_status_than_200_is_no_file(tmp_path: Path, code: int) -> None:
    async with serve() as server:
        with pytest.raises(TaskFailed, match=f"the server answers with status {code}"):
            await fetch(f"{server.base}/status?code={code}", tmp_path / "x")
    assert nothing_left(tmp_path)


async def test_sw68_nobody_there_is_said(tmp_path: Path) -> None:
    async with serve() as server:
        gone = server.base
    with pytest.raises(TaskFailed, match="nobody answers there"):
        await fetch(f"{gone}/file", tmp_path / "x")


async def test_sw68_a_cancelled_download_leaves_nothing(tmp_path: Path) -> None:
    async with serve() as server:
        running = asyncio.create_task(fetch(f"{server.base}/silent", tmp_path / "x"))
        await begun(tmp_path)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert nothing_left(tmp_path)


async def test_sw68_packed_bytes_are_kept_as_they_came(tmp_path: Path) -> None:
    async with serve() as server:
        await fetch(f"{server.base}/squeezed", tmp_path / "x.gz")
        assert server.asked[0].headers["Accept-Encoding"] == "identity"
    assert (tmp_path / "x.gz").read_bytes() == b"\x1f\x8b not looked into"


# --- redirects ------------------------------------------------------------------------------------------------------


async def test_sw67_redirects_are_followed_where_they_are_allowed(tmp_path: Path) -> None:
    told = Told()
    async with serve() as server, serve() as other:
        url = f"{server.base}/redirect?to={other.base}/redirect%3Fto=../file%23part"
        await fetch(url, tmp_path / "x", told=told, allowed=(server.base, other.base))
        assert [request.path for request in other.asked] == ["/redirect", "/file"]
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert told[0] == f"redirected to {other.base}/redirect?…"


async def test_sw67_a_redirect_to_a_forbidden_host_is_not_followed(tmp_path: Path) -> None:
    async with serve() as server, serve() as other:
        with pytest.raises(TaskFailed, match=r"redirects to .* policy does not allow downloads from there"):
            await fetch(f"{server.base}/redirect?to={other.base}/file", tmp_path / "x", allowed=(server.base,))
        assert other.asked == []


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd", "ftp://h/x", "data:text/plain,x", "//169.254.169.254/latest/meta-data",
        "http://[fe80::1]/x", "http://u:p@127.0.0.1/x", "http://h:99999/x", "javascript:x",
    ],
)  # fmt: skip
async def test_sw67_a_redirect_to_anything_else_than_the_web_is_refused(tmp_path: Path, target: str) -> None:
    async with serve() as server:
        with pytest.raises(TaskFailed, match="redirects to"):
            await fetch(f"{server.base}/redirect?to={target}", tmp_path / "x")
    assert nothing_left(tmp_path)


async def test_sw67_redirects_in_a_circle_end(tmp_path: Path) -> None:
    async with serve() as server:
        with pytest.raises(TaskFailed, match="more than 5 redirects"):
            await fetch(f"{server.base}/circle", tmp_path / "x")
        assert len(server.asked) == 6
    assert nothing_left(tmp_path)


async def test_sw67_a_redirect_without_a_target_is_refused(tmp_path: Path) -> None:
    async with serve() as server:
        with pytest.raises(TaskFailed, match="redirects to nowhere"):
            await fetch(f"{server.base}/nowhere", tmp_path / "x")


async def test_sw67_no_cookies_and_no_passwords_of_this_host_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: a server asks for what `~/.netrc` has for it."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    async with serve() as server:
        await fetch(f"{server.base}/cookie", tmp_path / "x")
        assert len(server.asked) == 2
        for request in server.asked:
            assert "Cookie" not in request.headers
            assert "Authorization" not in request.headers


# --- TLS and proxies ------------------------------------------------------------------------------------------------


async def test_sw67_a_certificate_of_an_unknown_authority_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, authority = make_tls(tmp_path)
    (tmp_path / "out").mkdir()
    async with serve(context) as server:
        with pytest.raises(TaskFailed, match="its certificate is not trusted on this host"):
            await fetch(f"{server.base}/file", tmp_path / "out" / "x")
        assert nothing_left(tmp_path / "out")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        await fetch(f"{server.base}/file", tmp_path / "out" / "x")
        plain = f"{server.base}/redirect?to={server.base.replace('https', 'http')}/file"
        with pytest.raises(TaskFailed, match="where nothing is encrypted"):
            await fetch(plain, tmp_path / "out" / "x")


async def test_sw67_proxies_are_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as proxy:
        monkeypatch.setenv("http_proxy", proxy.base)
        await fetch("http://nowhere.invalid/file", tmp_path / "x")
        assert [request.headers["Host"] for request in proxy.asked] == ["nowhere.invalid"]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert find_proxy("http://127.0.0.1:80/x") is None
        assert find_proxy("http://h/x") == proxy.base


# --- URLs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/x", "file:///etc/passwd", "h/x", "", "http:///x", "http://h:0/x", "http://h:x/y", "http://[::1/x",
        "http://u@h/x", "http://u:p@h/x", "https://:p@h/x", "http://h/a b", "http://h/\u00e4", "http://h\\@i/x",
        "http://h/x\n", "http://169.254.169.254/", "http://[fe80::1%25eth0]/", "http://[::ffff:169.254.169.254]/x",
        "http://[::ffff:a9fe:a9fe]/x", "http://[64:ff9b::a9fe:a9fe]/x", "http://[fd00:ec2::254]/x",
        "http://100.100.100.200/x", "http://[::ffff:168.63.129.16]/x",
    ],
)  # fmt: skip
def test_sw67_only_plain_urls_of_the_web_are_asked_for(url: str) -> None:
    with pytest.raises(TaskFailed) as caught:
        check_url(url, lambda _: True)
    assert str(caught.value).isprintable()


def test_sw67_what_the_policy_does_not_allow_is_not_asked_for() -> None:
    assert check_url("https://h/x", lambda url: url == "https://h/x") == "https://h/x"
    with pytest.raises(TaskFailed, match="policy does not allow downloads from there"):
        check_url("https://h/y", lambda url: url == "https://h/x")


def test_a_url_is_shown_without_keys_and_passwords() -> None:
    assert show_url("https://user:pw@h:8/p?sig=secret") == "https://h:8/p?…"
    assert show_url("https://h/\x1b[31m").isprintable()
    assert len(show_url("https://h/" + "x" * 500)) == 160
