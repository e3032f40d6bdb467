"""Pulled models are those of the served files, complete and recorded, also when things go wrong on the way."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from serving import Server, serving
from tinymodels import make_registry, make_umx, pth

from separator.errors import ModelError, UsageError
from separator.modelfile import file_sha256, load
from separator.pulling import pull
from separator.registry import Registry

FILES = {"vocals": pth(1), "drums": pth(2)}
CACHED = [".tiny.safetensors.lock", "tiny.safetensors", "tiny.safetensors.sha256"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "SEPCTL_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        server.files = {f"/{stem}.pth": body for stem, body in FILES.items()}
        yield server


@pytest.fixture
def registry(server: Server, tmp_path: Path) -> Registry:
    return make_registry(tmp_path, server.url(""), FILES)


def fetch(registry: Registry, name: str = "tiny", **options: bool) -> Path:
    return pull(registry, name, timeout_s=2.0, pause_s=0.01, **options)


def test_a_pulled_model_computes_what_the_served_networks_compute(registry: Registry) -> None:
    path = fetch(registry)
    assert path == registry.resolve("tiny")
    card, estimator = load(path)
    assert (card.name, card.stems, card.wiener, card.licence) == ("tiny", ("vocals", "drums"), 2, "MIT")
    mix = torch.randn(1, 2, 33, 11, dtype=torch.complex64)
    with torch.inference_mode():
        ours = estimator(mix, card.stems) * mix.abs()[:, None]
        theirs = torch.stack([make_umx(seed)(mix.abs()) for seed in (1, 2)], dim=1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert sorted(os.listdir(path.parent)) == CACHED
    assert os.listdir(registry.downloads) == []


def test_a_second_pull_asks_nobody(registry: Registry, server: Server) -> None:
    first = fetch(registry)
    asked = list(server.asked)
    assert fetch(registry) == fetch(registry, offline=True) == first
    assert server.asked == asked == [("/vocals.pth", None), ("/drums.pth", None)]


def test_a_pull_that_failed_is_continued(registry: Registry, server: Server) -> None:
    server.moods["/drums.pth"] = ["cut 1000", "status 404"]
    with pytest.raises(ModelError, match="404"):
        fetch(registry)
    with pytest.raises(ModelError, match="is not pulled yet"):
        registry.resolve("tiny")
    fetch(registry)
    assert server.asked[1:] == [("/drums.pth", None), ("/drums.pth", "bytes=1000-"), ("/drums.pth", "bytes=1000-")]


@pytest.mark.parametrize("bad", ["the server's file", "the kept file"])
def test_a_file_of_another_hash_is_never_used(registry: Registry, server: Server, bad: str) -> None:
    good = server.files["/drums.pth"]
    server.files["/drums.pth"] = pth(3)
    if bad == "the server's file":
        with pytest.raises(ModelError, match=r"drums\.pth: its SHA-256 is .*, expected"):
            fetch(registry)
        assert not registry.path("tiny").exists()
    else:
        (registry.downloads / "tiny").mkdir(parents=True)
        (registry.downloads / "tiny" / "drums.pth").write_bytes(pth(3))
    server.files["/drums.pth"] = good
    fetch(registry)
    made_of = load(registry.resolve("tiny"))[0].training["imported"]
    assert made_of["drums"] == {"file": "drums.pth", "sha256": hashlib.sha256(FILES["drums"]).hexdigest()}


def test_a_damaged_model_is_fetched_again(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    path = fetch(registry)
    digest = file_sha256(path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    assert fetch(registry) == path
    assert file_sha256(path) == digest
    assert "damaged" in caplog.text


def test_a_licence_must_be_accepted_before_anything_is_fetched(registry: Registry, server: Server) -> None:
    with pytest.raises(ModelError, match="CC-BY-NC-SA-4.0") as caught:
        fetch(registry, "strict")
    assert "--accept-license" in caught.value.hint
    assert server.asked == []
    fetch(registry, "strict", accept_license=True)
    assert fetch(registry, "strict") == registry.resolve("strict"), "once is enough"


def test_offline_asks_nobody(registry: Registry, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="off limits"):
        fetch(registry, offline=True)
    monkeypatch.setenv("SEPCTL_OFFLINE", "1")
    with pytest.raises(ModelError, match="off limits"):
        fetch(registry)
    assert server.asked == []


def test_unknown_bundled_and_path(registry: Registry) -> None:
    with pytest.raises(ModelError, match="no model is called 'tinny'"):
        fetch(registry, "tinny")
    with pytest.raises(ModelError, match=r"mini\.safetensors is missing"):
        fetch(registry, "mini")
    with pytest.raises(UsageError, match="is a path"):
        fetch(registry, "a/tiny.safetensors")


def test_pulls_at_the_same_time_fetch_once_and_agree(registry: Registry, server: Server) -> None:
    server.moods["/vocals.pth"] = ["cut 5000", "cut 5000"]
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(registry))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [registry.resolve("tiny")] * 4
    assert [path for path, _ in server.asked] == ["/vocals.pth"] * 3 + ["/drums.pth"]


def test_what_killed_processes_left_is_swept(registry: Registry) -> None:
    registry.models.mkdir(parents=True)
    for left in (".tiny.safetensors.new", "..tiny.safetensors.new.77-ab.part", ".tiny.safetensors.sha256.77-ab.part"):
        (registry.models / left).write_text("half")
    fetch(registry)
    assert sorted(os.listdir(registry.models)) == CACHED


def test_a_cache_that_cannot_be_written_is_a_model_error(registry: Registry) -> None:
    registry.models.parent.write_text("a file where the cache should be")
    with pytest.raises(ModelError, match=r"cannot be written: .*\n  hint: .*SEPCTL_CACHE"):
        fetch(registry)
