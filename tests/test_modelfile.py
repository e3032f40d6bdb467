"""A model file gives back what was put in, and refuses everything else with a reason."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from separator.card import ModelCard, TrunkSpec, UmxSpec
from separator.errors import ModelError
from separator.modelfile import FORMAT, file_sha256, load, read_card, save
from separator.models import build

STEMS = ("vocals", "drums")
CARDS = {
    "umx": ModelCard(name="tiny", stems=STEMS, spec=UmxSpec(hidden=8, kept_bins=21), n_fft=64, hop=16,
                     licence="MIT", training={"seed": 3}, scores={"sdr_db": {"vocals": 6.25}}),
    "trunk": ModelCard(name="tiny-2", stems=STEMS, n_fft=64, hop=16, spec=TrunkSpec(
        input_bands=8, hidden=8, lstm_hidden=4, layers=2, head=4, fine_bins=6, mask_bands=5)),
}


def make(card: ModelCard) -> nn.Module:
    torch.manual_seed(5)
    estimator = build(card).eval()
    for name, tensor in estimator.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1.0) if name.endswith(("var", "scale")) else tensor.normal_(0, 0.4)
    return estimator


def masks(card: ModelCard, estimator: nn.Module) -> torch.Tensor:
    mix = torch.randn(1, 2, card.bins, 9, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return estimator(mix, card.stems)


def rewrite(path: Path, edit: dict[str, str | None]) -> None:
    """Change the metadata of a model file; None removes."""
    size = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8:8 + size])["__metadata__"] | edit
    save_file(load_file(path), path, metadata={key: text for key, text in metadata.items() if text is not None})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path / "tiny.safetensors", CARDS["umx"], make(CARDS["umx"]))
    return tmp_path / "tiny.safetensors"


def test_a_file_with_the_cross_fade_of_before_is_still_read(saved: Path) -> None:
    before = CARDS["umx"].model_dump(mode="json") | {"fade_s": 0.1}
    rewrite(saved, {"card": json.dumps(before)})
    assert load(saved)[0] == CARDS["umx"]


@pytest.mark.parametrize("family", CARDS)
def test_load_undoes_save(family: str, tmp_path: Path) -> None:
    card, estimator, path = CARDS[family], make(CARDS[family]), tmp_path / "deep" / "m.safetensors"
    digest = save(path, card, estimator)
    assert digest == file_sha256(path)
    read, loaded = load(path)
    assert read == read_card(path) == card
    assert not loaded.training
    expected = estimator.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
        assert tensor.dtype == expected[key].dtype, key
    assert torch.equal(masks(card, loaded), masks(card, estimator))
    assert os.listdir(path.parent) == ["m.safetensors"]


def test_the_same_model_gives_the_same_bytes_that_the_library_reads(tmp_path: Path) -> None:
    estimator = make(CARDS["umx"])
    digests = {save(tmp_path / f"{n}", CARDS["umx"], estimator) for n in range(5)}
    assert len(digests) == 1
    tensors = load_file(tmp_path / "0")
    assert all(torch.equal(tensors[key], tensor) for key, tensor in estimator.state_dict().items())


def test_every_tensor_is_aligned_to_its_numbers(tmp_path: Path) -> None:
    spec = UmxSpec(hidden=7, kept_bins=21, bidirectional=False)     # odd sizes
    card = CARDS["umx"].model_copy(update={"spec": spec})
    save(tmp_path / "half", card, make(card), dtype=torch.float16)
    body = (tmp_path / "half").read_bytes()
    size = int.from_bytes(body[:8], "little")
    header = json.loads(body[8:8 + size])
    del header["__metadata__"]
    widths = {"I64": 8, "F32": 4, "F16": 2}
    assert {entry["dtype"] for entry in header.values()} == set(widths)
    assert all((8 + size + entry["data_offsets"][0]) % widths[entry["dtype"]] == 0 for entry in header.values())


def test_float16_halves_the_matrices_and_is_widened_at_load(tmp_path: Path) -> None:
    card, estimator = CARDS["umx"], make(CARDS["umx"])
    with torch.no_grad():
        estimator.get_submodule("drums").bn1.running_var.fill_(1e6)     # beyond float16, but a vector
    save(tmp_path / "half", card, estimator, dtype=torch.float16)
    stored = load_file(tmp_path / "half")
    assert {tensor.dtype for tensor in stored.values() if tensor.ndim > 1} == {torch.float16}
    _, loaded = load(tmp_path / "half")
    for key, tensor in loaded.state_dict().items():
        original = estimator.state_dict()[key]
        assert tensor.dtype == original.dtype
        assert torch.equal(tensor, original.half().float() if original.ndim > 1 else original), key
    with torch.no_grad():
        estimator.get_submodule("drums").fc1.weight[0, 0] = 1e5
    with pytest.raises(ModelError, match=r"NaN or infinite numbers in drums\.fc1\.weight"):
        save(tmp_path / "half", card, estimator, dtype=torch.float16)
    assert torch.equal(load_file(tmp_path / "half")["drums.fc1.weight"], stored["drums.fc1.weight"]), "kept as it was"


def test_reading_a_card_does_not_import_torch(saved: Path) -> None:
    script = (f"import sys, pathlib; from separator.modelfile import read_card;"
              f"print(read_card(pathlib.Path({str(saved)!r})).name, 'torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tiny", "False"]


@pytest.mark.parametrize(("edit", "message"), [
    ({"format": "sepctl-2"}, "has the format 'sepctl-2'; this sepctl reads 'sepctl-1'"),
    ({"format": None}, "is a safetensors file, but not a sepctl model"),
    ({"card": None}, "has no readable card"),
    ({"card": "{"}, "has no readable card"),
    ({"card": "[1]"}, "has no readable card"),
    ({"card": '{"name": "x", "stems": ["a"], "spec": {"family": "old"}}'}, "unknown family 'old'; known: umx, trunk"),
    ({"card": '{"name": "x", "stems": ["a"], "spec": {"family": "umx", "hid": 8}}'}, r"spec\.umx\.hid: Extra inputs"),
    ({"card": '{"name": "x", "stems": ["a", "a"], "spec": {"family": "umx"}}'}, "stems are named twice: a, a"),
])
def test_a_foreign_card_is_refused(saved: Path, edit: dict[str, str | None], message: str) -> None:
    rewrite(saved, edit)
    for read in (read_card, load):
        with pytest.raises(ModelError, match=message) as caught:
            read(saved)
        assert str(saved) in caught.value.fact
        assert caught.value.hint


@pytest.mark.parametrize("spec", [
    {"family": "umx", "hidden": 10**12},                    # would need more memory than there is
    {"family": "umx", "hidden": 7, "kept_bins": 21},
    {"family": "umx", "hidden": 8, "kept_bins": 10**6},
    {"family": "trunk", "fine_bins": 10**6},
])
def test_a_card_that_describes_no_possible_network_is_refused(saved: Path, spec: dict[str, object]) -> None:
    rewrite(saved, {"card": json.dumps({"name": "x", "stems": STEMS, "spec": spec, "n_fft": 64, "hop": 16})})
    with pytest.raises(ModelError):
        load(saved)


def test_a_stem_that_torch_cannot_name_is_refused(saved: Path) -> None:
    card = CARDS["umx"].model_copy(update={"stems": ("vo.cals", "drums")})
    rewrite(saved, {"card": card.model_dump_json()})
    with pytest.raises(ModelError, match="cannot be built"):
        load(saved)


def spoil(key: str, number: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors[key].view(-1)[3:4].fill_(number)


def put(key: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update({key: tensor})


def drop(start: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: [tensors.pop(key) for key in list(tensors) if key.startswith(start)]


@pytest.mark.parametrize(("damage", "message"), [
    (drop("vocals.fc1.weight"), r"missing keys: vocals\.fc1\.weight$"),
    (drop("drums"), r"missing keys: drums\.bn1\.bias, .* and 42 more$"),
    (put("extra", torch.zeros(1)), "unknown keys: extra$"),
    (put("vocals.bn1.bias", torch.zeros(9)), r"wrong shapes: vocals\.bn1\.bias is float \[9\] instead of float \[8\]$"),
    (put("vocals.bn1.bias", torch.zeros(8, dtype=torch.int64)), r"bias is int64 \[8\] instead of float \[8\]$"),
    (spoil("drums.fc2.weight", math.nan), r"NaN or infinite numbers in drums\.fc2\.weight$"),
    (spoil("drums.fc2.weight", -math.inf), r"NaN or infinite numbers in drums\.fc2\.weight$"),
])
def test_weights_that_do_not_fit_the_card_are_refused(saved: Path, damage: Callable[[dict[str, torch.Tensor]], object],
                                                              message: str) -> None:
    tensors = {key: tensor.clone() for key, tensor in load_file(saved).items()}
    damage(tensors)
    save_file(tensors, saved, metadata={"format": FORMAT, "card": CARDS["umx"].model_dump_json()})
    with pytest.raises(ModelError) as caught:
        load(saved)
    assert re.search(message, caught.value.fact)
    assert str(saved) in caught.value.fact
    assert caught.value.hint


def test_every_truncation_is_noticed(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        saved.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="truncated|not a model file"):
            read_card(saved)
    saved.write_bytes(whole + b"x")
    with pytest.raises(ModelError, match="truncated or damaged"):
        load(saved)


def test_what_is_no_file_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("not a model, just words\n" * 9)
    for path, message in [(tmp_path, "is a folder"), (tmp_path / "gone", "does not exist"),
                          (tmp_path / "text.safetensors", "is not a model file")]:
        with pytest.raises(ModelError, match=message):
            load(path)
