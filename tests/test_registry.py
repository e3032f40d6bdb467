"""Names lead to the one right file, verified, or to an error that helps."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tinymodels import make_registry, make_umx, pth

from separator.errors import ModelError
from separator.modelfile import file_sha256, read_card
from separator.pulling import import_folder
from separator.registry import HERE, Registry, cache_folder, default, names, resolve

FILES = {"vocals": pth(1), "drums": pth(2)}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return make_registry(tmp_path, "http://127.0.0.1:9", FILES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pth").mkdir()
    for stem, body in FILES.items():
        (tmp_path / "pth" / f"{stem}-1234.pth").write_bytes(body)
    return tmp_path / "pth"


def test_the_shipped_registry_is_complete() -> None:
    registry = default()
    assert list(registry.entries) == ["mini", "umxhq", "umx", "umxl"]
    assert not registry.entries["mini"].files
    for name in ("umxhq", "umx", "umxl"):
        entry = registry.entries[name]
        assert list(entry.files) == list(entry.stems) == list(entry.sdr_db) == ["vocals", "drums", "bass", "other"]
        for stem, file in entry.files.items():
            assert file.url.endswith(f"/files/{stem}-{file.sha256[:8]}.pth")
            assert file.url.startswith(entry.source)
        assert "joss.01667" in entry.attribution[0]
    assert [entry.must_accept for entry in registry.entries.values()] == [False, False, False, True]
    assert {len(file.sha256) for file in registry.entries["umxhq"].files.values()} == {64}
    assert registry.entries["umxhq"].size == 4 * 35_637_796
    assert registry.entries["umx"].size is None


def test_the_bundled_model_is_the_recorded_one() -> None:
    path, entry = HERE / "weights" / "mini.safetensors", default().entries["mini"]
    if not path.exists():
        pytest.skip("not trained yet")
    assert file_sha256(path) == entry.sha256, "write this hash into registry.yaml"
    card = read_card(path)
    assert (card.name, card.stems, card.licence) == ("mini", entry.stems, entry.licence)


def test_neither_names_nor_resolve_import_torch() -> None:
    script = ("import sys, contextlib; from separator.registry import names, resolve; names()\n"
              "with contextlib.suppress(Exception): resolve('mini')\nprint('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_cache_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPCTL_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    assert default().models == tmp_path / "mine" / "models"
    assert names() == ["mini", "umxhq", "umx", "umxl"]
    monkeypatch.setenv("SEPCTL_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().name == "sepctl"


def test_names_that_are_not_there_yet(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def hint(name: str, offline: bool = False) -> str:
        with pytest.raises(ModelError) as caught:
            registry.resolve(name, offline=offline)
        return str(caught.value)

    assert "tiny is not pulled yet\n  hint: sepctl models pull tiny" in hint("tiny")
    assert hint("strict").endswith("pull strict --accept-license")
    assert "off limits" in hint("tiny", offline=True)
    assert "no model is called 'tinny'\n  hint: did you mean tiny" in hint("tinny")
    assert "known models: mini, tiny, strict" in hint("q")
    assert "mini.safetensors is missing" in hint("mini")
    assert "gone/q.safetensors does not exist" in hint("gone/q.safetensors")
    assert "does not exist" in hint("tiny.safetensors"), "the ending makes it a path"
    monkeypatch.setenv("SEPCTL_OFFLINE", "1")
    assert "off limits" in hint("tiny")
    monkeypatch.setenv("SEPCTL_OFFLINE", "0")
    assert "off limits" not in hint("tiny")


def test_names_win_over_files_and_paths_over_names(registry: Registry, folder: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    own = import_folder(registry, folder, "own")
    assert own == tmp_path / "cache" / "models" / "own.safetensors"
    assert registry.names() == ["mini", "tiny", "strict", "own"]
    monkeypatch.chdir(tmp_path)
    elsewhere = import_folder(registry, folder, "else", out=tmp_path / "else.safetensors")
    for name in ("own", "plain"):
        (tmp_path / name).write_bytes(elsewhere.read_bytes())
    assert registry.resolve("own") == own
    assert registry.resolve("./own") == Path("own")
    assert registry.resolve(Path("own")) == Path("own")
    assert registry.resolve("plain") == Path("plain")
    assert registry.resolve("else.safetensors") == Path("else.safetensors")
    assert resolve(elsewhere) == elsewhere
    with pytest.raises(ModelError, match="is a folder"):
        registry.resolve(tmp_path)


def test_a_damaged_file_is_never_given_out(registry: Registry, folder: Path) -> None:
    path = import_folder(registry, folder, "own")
    side = path.with_name("own.safetensors.sha256")
    assert side.read_text() == f"{file_sha256(path)}  own.safetensors\n"
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    digest = hashlib.sha256(body).hexdigest()
    for name in ("own", str(path)):
        with pytest.raises(ModelError, match=f"is damaged: its SHA-256 is {digest}, recorded"):
            registry.resolve(name)
    side.unlink()
    with pytest.raises(ModelError, match="recorded was none"):
        registry.resolve("own")


def test_a_bundled_file_is_checked_against_the_registry(registry: Registry, folder: Path, tmp_path: Path) -> None:
    path = import_folder(registry, folder, "x", out=tmp_path / "weights" / "mini.safetensors")
    assert registry.resolve("mini") == path
    for digest, fine in ((file_sha256(path), True), ("0" * 64, False)):
        registry.entries["mini"] = registry.entries["mini"].model_copy(update={"sha256": digest})
        if fine:
            assert registry.resolve("mini") == path
        else:
            with pytest.raises(ModelError, match="is damaged"):
                registry.resolve("mini")


def test_published_files_fetched_by_hand_are_checked_and_carded(registry: Registry, folder: Path,
                                                                tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="only under its licence\n  licence: CC-BY-NC-SA-4.0\n  Tester") as caught:
        import_folder(registry, folder, "strict")
    assert "--accept-license" in caught.value.hint
    card = read_card(import_folder(registry, folder, "strict", accept_license=True, licence="ignored"))
    assert (card.licence, card.attribution, card.wiener) == ("CC-BY-NC-SA-4.0", ("Tester",), 2)
    assert card.scores == {"data": "nothing", "sdr_db": {"vocals": 6.0, "drums": 4.0}}
    torch.save(make_umx(3).state_dict(), folder / "bass.pth")
    with pytest.raises(ModelError, match="tiny has no stem bass"):
        import_folder(registry, folder, "tiny")
    (folder / "bass.pth").unlink()
    torch.save(make_umx(3).state_dict(), folder / "drums-1234.pth")
    with pytest.raises(ModelError, match="is not the published drums of tiny"):
        import_folder(registry, folder, "tiny")
    (folder / "drums-1234.pth").unlink()
    with pytest.raises(ModelError, match="has a file for drums, the folder has none"):
        import_folder(registry, folder, "tiny")
    assert not (tmp_path / "cache" / "models" / "tiny.safetensors").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "Large", "", "."])
def test_a_bad_name_writes_nothing(registry: Registry, folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="cannot be imported as"):
        import_folder(registry, folder, name)
    with pytest.raises(ModelError, match="the name of a bundled model"):
        import_folder(registry, folder, "mini")
    assert not (tmp_path / "cache").exists()
