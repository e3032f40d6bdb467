"""Statistics against numpy's over everything at once, and kept exactly as long as nothing changes."""

import numpy as np
import pytest
import torch

from separator.train.augment import Augment, Drive
from separator.train.excerpts import Data, Excerpts
from separator.train.statistics import measured, statistics

RATE, N_FFT, HOP = 4000, 256, 64


@pytest.fixture
def excerpts(tmp_path):
    rng = np.random.default_rng(0)
    for n in range(3):
        for stem in ("low", "high"):
            (tmp_path / "set" / f"song{n}" / stem).mkdir(parents=True)
            for layer in "ab":
                audio = 10 ** rng.uniform(2, 3.5) * rng.standard_normal((3 * RATE, 2))
                np.save(tmp_path / "set" / f"song{n}" / stem / f"{layer}.npy", audio.astype(np.int16))
    data = Data(train=[{"folder": tmp_path / "set"}], valid=tmp_path / "set", excerpt_s=0.5, rows=4)
    return Excerpts(data, ("low", "high"), RATE, 1, Augment(drive=Drive(p=1)))


def features(power):
    """Log powers, channels side by side. Shape: `[B, C, F, T]` -> `[B * T, C * F]`."""
    return torch.log10(power + 1e-9).permute(0, 3, 1, 2).flatten(2).flatten(0, 1)


def test_moments_are_those_of_all_frames_of_all_mixes(excerpts):
    found = measured(features, excerpts, N_FFT, HOP, mixes=10)
    plain = excerpts.plain()
    mixes = torch.cat([plain.rows(block) for block in range(3)])[:10].sum(dim=1)
    frames = mixes.unfold(2, N_FFT, HOP) * torch.hann_window(N_FFT)  # [10, C, T, N_FFT]
    power = np.abs(np.fft.rfft(frames.double().numpy())) ** 2
    table = np.log10(power + 1e-9).transpose(0, 2, 1, 3).reshape(-1, 2 * 129)
    np.testing.assert_allclose(found.mean, table.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(found.std, table.std(axis=0), atol=1e-4)
    assert found.mean.dtype == found.std.dtype == torch.float32


def test_a_constant_far_from_zero_has_no_deviation(excerpts):
    found = measured(lambda power: torch.full((power.shape[-1], 3), 1e4), excerpts, N_FFT, HOP, mixes=5)
    assert torch.equal(found.mean, torch.full((3,), 1e4)) and torch.equal(found.std, torch.zeros(3))


def test_measured_once_and_again_when_anything_changes(excerpts, tmp_path):
    calls = []

    def counted(power):
        calls.append(1)
        return features(power)

    def measure(n_fft=N_FFT, hop=HOP, key="one", mixes=3, of=excerpts):
        before = len(calls)
        found = statistics(counted, of, n_fft, hop, key={"data": key}, folder=tmp_path / "kept", mixes=mixes)
        return found, len(calls) - before

    first, fresh = measure()
    again, cached = measure()
    assert (fresh, cached) == (3, 0)
    assert torch.equal(first.mean, again.mean) and torch.equal(first.std, again.std)
    changed = excerpts.data.model_copy(update={"silent": 0.5})
    fewer = excerpts.data.model_copy(update={"rows": 2})  # blocks of other rows
    others = [Excerpts(excerpts.data, ("low", "high"), RATE, 2), Excerpts(excerpts.data, ("low",), RATE, 1),
              Excerpts(changed, ("low", "high"), RATE, 1), Excerpts(fewer, ("low", "high"), RATE, 1)]
    for change in ({"hop": 128}, {"key": "two"}, {"mixes": 4}, {"n_fft": 512}, *({"of": other} for other in others)):
        assert measure(**change)[1] > 0 and measure(**change)[1] == 0, change
    assert measure(of=Excerpts(excerpts.data, ("low", "high"), RATE, 1))[1] == 0  # augmentation does not matter
    assert measure()[1] == 0


def test_a_damaged_file_is_measured_anew_and_a_folder_that_takes_no_file_is_no_error(excerpts, tmp_path):
    def measure(folder):
        return statistics(features, excerpts, N_FFT, HOP, key={}, folder=folder, mixes=2)

    first = measure(tmp_path / "kept")
    (path,) = (tmp_path / "kept").iterdir()
    whole = path.read_bytes()
    for content in (whole[:50], b"", b"{}"):
        path.write_bytes(content)
        assert torch.equal(measure(tmp_path / "kept").mean, first.mean)
        assert path.read_bytes() == whole
    path.unlink()
    path.mkdir()  # in the way
    assert torch.equal(measure(tmp_path / "kept").std, first.std)
