"""Folders of Open-Unmix .pth files: the imported network computes what `openunmix` computes with the same files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from tinymodels import make_umx

from separator.errors import ModelError
from separator.modelfile import file_sha256, load, read_card, save
from separator.umxfiles import find_pth, import_umx


@pytest.mark.parametrize("legacy", [True, False], ids=["2019 format", "zip format"])
@pytest.mark.parametrize("shape", [{}, {"unidirectional": True}, {"channels": 1, "layers": 2}, {"hidden": 16}])
def test_import_umx_computes_what_open_unmix_computes(tmp_path: Path, legacy: bool, shape: dict[str, int]) -> None:
    oracles = {"vocals": make_umx(1, **shape), "drums": make_umx(2, **shape), "piano": make_umx(3, **shape)}
    names = {"vocals": "vocals-b62c91ce.pth", "drums": "Drums.pth", "piano": "piano_v2.pth"}
    for stem, oracle in oracles.items():
        state = {**oracle.state_dict(), "stft.window": torch.hann_window(64),
                 "transform.0.window": torch.hann_window(64), "sample_rate": torch.tensor([48000.0])}
        torch.save(state, tmp_path / names[stem], _use_new_zipfile_serialization=not legacy)
    card, estimator = import_umx(tmp_path, "mine", licence="MIT")
    assert (card.stems, card.sample_rate, card.n_fft, card.hop) == (("vocals", "drums", "piano"), 48000, 64, 16)
    assert card.licence == "MIT"
    assert card.training["imported"]["drums"] == {"file": "Drums.pth", "sha256": file_sha256(tmp_path / "Drums.pth")}
    save(tmp_path / "mine.safetensors", card, estimator)
    read, loaded = load(tmp_path / "mine.safetensors")
    assert read == card
    mix = torch.randn(1, card.channels, 33, 11, dtype=torch.complex64)
    with torch.inference_mode():
        for s, stem in enumerate(card.stems):
            ours = loaded(mix, card.stems)[:, s] * mix.abs()
            torch.testing.assert_close(ours, oracles[stem](mix.abs()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("stems", "complete"), [
    (("vocals", "drums", "bass", "other"), True),
    (("vocals", "drums"), False),
    (("vocals", "drums", "bass", "other", "piano"), False),
    (("vocals",), False),
])
def test_only_the_usual_four_are_known_to_be_the_whole_mix(
    tmp_path: Path, stems: tuple[str, ...], complete: bool
) -> None:
    for stem in stems:
        torch.save(make_umx(1).state_dict(), tmp_path / f"{stem}.pth")
    assert import_umx(tmp_path, "m")[0].complete == complete
    assert import_umx(tmp_path, "m", complete=True)[0].complete


def test_import_umx_takes_rate_and_hop_from_the_trainers_settings(tmp_path: Path) -> None:
    torch.save(make_umx(1).state_dict(), tmp_path / "vocals.pth")
    assert import_umx(tmp_path, "m")[0].sample_rate == 44100
    (tmp_path / "separator.json").write_text('{"sample_rate": 16000.0, "nfft": 64, "nhop": 8, "nb_channels": 2}')
    card, _ = import_umx(tmp_path, "m")
    assert (card.sample_rate, card.n_fft, card.hop) == (16000, 64, 8)
    (tmp_path / "separator.json").write_text("{")
    with pytest.raises(ModelError, match=r"separator\.json cannot be read"):
        import_umx(tmp_path, "m")


def test_find_pth_knows_the_usual_stems_by_their_beginning(tmp_path: Path) -> None:
    for name in ("other-c8c5b3e6.pth", "bass2.pth", "vocals.pth", "DRUMS_final.pth", "choir-1.pth", "notes.txt"):
        (tmp_path / name).touch()
    assert {stem: path.name for stem, path in find_pth(tmp_path).items()} == {
        "vocals": "vocals.pth", "drums": "DRUMS_final.pth", "bass": "bass2.pth", "other": "other-c8c5b3e6.pth",
        "choir": "choir-1.pth"}
    assert list(find_pth(tmp_path)) == ["vocals", "drums", "bass", "other", "choir"]
    (tmp_path / "vocals-2.pth").touch()
    with pytest.raises(ModelError, match="two files for vocals"):
        find_pth(tmp_path)


def test_import_umx_refuses_what_is_not_open_unmix(tmp_path: Path) -> None:
    def refused(content: object, message: str) -> None:
        torch.save(content, tmp_path / "vocals.pth")
        with pytest.raises(ModelError, match=message) as caught:
            import_umx(tmp_path, "m")
        assert caught.value.hint

    state = make_umx(1).state_dict()
    refused({"state_dict": state, "epoch": 3}, "holds more than a state dictionary")
    refused([1, 2], "holds more than a state dictionary")
    refused({}, "it has no fc1.weight")
    refused({**state, "fc1.weight": torch.zeros(3)}, "tensors have other shapes")
    refused({**state, "fc1.weight": torch.zeros(8, 43)}, "wrong shapes")
    refused({**state, "fc9.weight": torch.zeros(3)}, r"unknown keys: vocals\.fc9\.weight")
    refused({key: tensor for key, tensor in state.items() if key != "bn2.bias"}, r"missing keys: vocals\.bn2\.bias")
    refused({**state, "bn2.bias": torch.full((8,), torch.nan)}, "NaN or infinite")
    (tmp_path / "vocals.pth").write_bytes((tmp_path / "vocals.pth").read_bytes()[:500])
    with pytest.raises(ModelError, match="not a file of plain tensors"):
        import_umx(tmp_path, "m")
    (tmp_path / "vocals.pth").unlink()
    with pytest.raises(ModelError, match=r"holds no \.pth files"):
        import_umx(tmp_path, "m")
    with pytest.raises(ModelError, match="is not a folder"):
        import_umx(tmp_path / "gone", "m")


def test_import_umx_refuses_networks_of_different_shape_and_bad_names(tmp_path: Path) -> None:
    torch.save(make_umx(1).state_dict(), tmp_path / "vocals.pth")
    with pytest.raises(ModelError, match="cannot be imported as .My Model.: name: "):
        import_umx(tmp_path, "My Model")
    torch.save(make_umx(2, hidden=16).state_dict(), tmp_path / "drums.pth")
    with pytest.raises(ModelError, match=r"drums\.pth and vocals\.pth are networks of different shape"):
        import_umx(tmp_path, "m")


class Crafted:
    """A pickle that creates a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def crafted_files(folder: Path, target: Path) -> dict[str, Path]:
    paths = {kind: folder / kind / "vocals.pth" for kind in ("plain", "zip", "legacy")}
    for path in paths.values():
        path.parent.mkdir()
    paths["plain"].write_bytes(pickle.dumps(Crafted(target), protocol=2))
    torch.save({"fc1.weight": Crafted(target)}, paths["zip"])
    torch.save({"fc1.weight": Crafted(target)}, paths["legacy"], _use_new_zipfile_serialization=False)
    return paths


def test_a_crafted_pickle_does_not_execute(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    for path in crafted_files(tmp_path, target).values():
        with pytest.raises(ModelError, match="not a file of plain tensors") as caught:
            import_umx(path.parent, "evil")
        assert str(path) in caught.value.fact
        for read in (load, read_card):
            with pytest.raises(ModelError, match="is a pickle"):
                read(path)
        assert not target.exists()
    with (tmp_path / "plain" / "vocals.pth").open("rb") as file:
        pickle.load(file)
    assert target.exists(), "the trap works"
