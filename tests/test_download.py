"""A download gives the served bytes, however badly they are served, or an error and nothing else."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Server, serving

from separator import download as module
from separator.download import download
from separator.errors import ModelError, ResourceError

BODY = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        server.files["/f"] = BODY
        yield server


def get(url: str, target: Path, sha256: str = SHA256, timeout_s: float = 5.0, attempts: int = 3) -> str:
    return download(url, target, sha256=sha256, timeout_s=timeout_s, attempts=attempts, pause_s=0.01)


@pytest.mark.parametrize(("moods", "ranges"), [
    ([], [None]),
    (["cut 100000"], [None, "bytes=100000-"]),
    (["cut 1", "cut 2", "cut 3", "cut 4", "cut 5"], [None, *(f"bytes={n}-" for n in (1, 3, 6, 10, 15))]),
    (["cut 0", "cut 0"], [None, None, None]),
    (["cut 100000", "norange"], [None, "bytes=100000-"]),
    (["cut 200000", "cut 50000", "cut 49999"], [None, "bytes=200000-", "bytes=250000-", "bytes=299999-"]),
    (["status 503", "status 429"], [None, None, None]),
    (["stall 1000"], [None, "bytes=1000-"]),
    (["silent"], [None, None]),
])
def test_the_served_bytes_arrive(server: Server, tmp_path: Path, moods: list[str], ranges: list[str | None]) -> None:
    server.moods["/f"] = list(moods)
    assert get(server.url("/f"), tmp_path / "f", timeout_s=0.3) == SHA256
    assert (tmp_path / "f").read_bytes() == BODY
    assert os.listdir(tmp_path) == ["f"]
    assert [asked for _, asked in server.asked] == ranges


def test_redirects_are_followed_with_their_range(server: Server, tmp_path: Path) -> None:
    server.moods = {"/start": ["redirect /f", "redirect /f"], "/f": ["cut 5"]}
    assert get(server.url("/start"), tmp_path / "f") == SHA256
    assert server.asked == [("/start", None), ("/f", None), ("/start", "bytes=5-"), ("/f", "bytes=5-")]


def test_a_reset_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.moods["/f"] = ["reset 100000", "reset 100000"]
    assert get(server.url("/f"), tmp_path / "f") == SHA256     # a reset may swallow what was under way: no exact Range
    assert (tmp_path / "f").read_bytes() == BODY
    assert len(server.asked) == 3


def test_a_kept_part_is_continued_by_the_next_call(server: Server, tmp_path: Path) -> None:
    server.moods["/f"] = ["cut 1000", "status 500", "status 500"]
    with pytest.raises(ModelError, match="broke 3 times") as caught:
        get(server.url("/f"), tmp_path / "f")
    assert "continues at byte 1,000" in caught.value.hint
    assert os.listdir(tmp_path) == ["f.part"]
    assert get(server.url("/f"), tmp_path / "f") == SHA256
    assert server.asked[-1] == ("/f", "bytes=1000-")


@pytest.mark.parametrize("part", [b"wrong" * 100, BODY[:-1] + b"x", BODY + b"more"])
def test_a_bad_part_is_thrown_away_and_fetched_again(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "f.part").write_bytes(part)
    assert get(server.url("/f"), tmp_path / "f") == SHA256
    assert (tmp_path / "f").read_bytes() == BODY
    assert len(server.asked) == 2


def test_a_part_that_was_complete_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(BODY)
    assert get(server.url("/f"), tmp_path / "f") == SHA256
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("prefix", [8, 64])
def test_a_wrong_hash_leaves_nothing(server: Server, tmp_path: Path, prefix: int) -> None:
    wrong = ("0" + SHA256[1:] if SHA256[0] != "0" else "1" + SHA256[1:])[:prefix]
    assert get(server.url("/f"), tmp_path / "good", SHA256[:prefix]) == SHA256
    with pytest.raises(ModelError, match=f"its SHA-256 is {SHA256}, expected {wrong}"):
        get(server.url("/f"), tmp_path / "f", wrong)
    assert os.listdir(tmp_path) == ["good"]


def test_a_body_of_unknown_length_that_was_cut_is_not_taken(server: Server, tmp_path: Path) -> None:
    server.moods["/f"] = ["chunked 1000"]
    with pytest.raises(ModelError, match="its SHA-256 is"):
        get(server.url("/f"), tmp_path / "f")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("mood", "message", "requests"), [
    ("status 404", "the server says 404 Not Found", 1),
    ("status 403", "the server says 403 Forbidden", 1),
    ("status 503", "broke 3 times: HTTP 503", 3),
    ("silent", "broke 3 times: timed out", 3),
])
def test_a_server_that_cannot_deliver(server: Server, tmp_path: Path, mood: str, message: str, requests: int) -> None:
    server.moods["/f"] = [mood] * 9
    with pytest.raises(ModelError, match=message) as caught:
        get(server.url("/f"), tmp_path / "f", timeout_s=0.1)
    assert server.url("/f") in caught.value.fact
    assert "models import" in caught.value.hint
    assert len(server.asked) == requests


def test_no_server_and_no_such_host(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    with serving() as gone:
        url = gone.url("/f")
    for message in ("Connection refused", "Name or service not known"):
        with pytest.raises(ModelError, match=f"cannot be reached: .*{message}") as caught:
            get(url, tmp_path / "f")
        assert "https_proxy" in caught.value.hint
        monkeypatch.setattr(socket, "getaddrinfo", unknown)


def test_proxies_of_the_environment_are_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["http://models.invalid/f"] = BODY          # what a proxy is asked for
    monkeypatch.setenv("http_proxy", server.url(""))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert get("http://models.invalid/f", tmp_path / "f") == SHA256
    assert server.asked == [("http://models.invalid/f", None)]


def test_progress_counts_every_byte_once(server: Server, tmp_path: Path) -> None:
    server.moods["/f"] = ["cut 100000"]
    seen: list[tuple[str, int, int | None]] = []
    download(server.url("/f"), tmp_path / "f", sha256=SHA256, pause_s=0, progress=lambda *told: seen.append(told))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1] == ("f", len(BODY), len(BODY))
    assert {total for _, _, total in seen} == {len(BODY)}


def test_a_full_disk_is_told_from_a_broken_network(server: Server, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        get(server.url("/f"), tmp_path / "f")
    assert len(server.asked) == 1
