"""The compiled filter: how it is built, and what `test_wiener` does not see, which holds its numbers."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from separator.dsp import stereo
from separator.dsp.wiener import filter_masks

ROOT = Path(__file__).resolve().parent.parent
compiled = pytest.mark.skipif(
    stereo.compiled() is None, reason="the filter is not compiled: there was no C compiler when sepctl was installed"
)


@compiled
def test_no_bit_depends_on_the_number_of_threads() -> None:
    mix, masks = 30 * torch.randn(2, 70, 300, dtype=torch.complex64), torch.rand(4, 2, 70, 300)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 71):
            torch.set_num_threads(threads)
            found.append(filter_masks(mix, lambda bins: masks[:, :, bins], exact=True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(each, found[0]) for each in found)


@compiled
def test_any_order_in_memory_and_any_number_of_frames() -> None:
    """Each against its own part of a longer one, whose statistics are the same: it is repeated."""
    for frames in (1, 7, 8, 300):
        mix, masks = torch.randn(2, 5, frames, dtype=torch.complex64), torch.rand(3, 2, 5, frames)
        plain = filter_masks(mix, lambda bins, masks=masks: masks[:, :, bins])
        strided = mix.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        given = masks.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
        assert strided.stride(-1) != 1 or frames == 1
        assert torch.equal(filter_masks(strided, lambda bins, given=given: given[:, :, bins]), plain)
        twice = filter_masks(mix.repeat(1, 1, 2), lambda bins, masks=masks: masks[:, :, bins].repeat(1, 1, 1, 2))
        torch.testing.assert_close(twice, plain.repeat(1, 1, 1, 2))


@compiled
def test_only_stereo_in_single_precision_on_the_processor() -> None:
    assert stereo.serves(torch.zeros(2, 3, 4, dtype=torch.complex64))
    assert not stereo.serves(torch.zeros(2, 3, 4, dtype=torch.complex128))
    assert not stereo.serves(torch.zeros(1, 3, 4, dtype=torch.complex64))
    assert not stereo.serves(torch.zeros(2, 3, 4, dtype=torch.complex64, device="meta"))


@compiled
@pytest.mark.parametrize(("channels", "iterations", "called"), [(2, 1, True), (2, 2, False), (1, 1, False)])
def test_it_is_what_filters(monkeypatch: pytest.MonkeyPatch, channels: int, iterations: int, called: bool) -> None:
    mix, masks = torch.randn(channels, 5, 9, dtype=torch.complex64), torch.rand(3, channels, 5, 9)
    asked: list[Tensor] = []
    monkeypatch.setattr(stereo, "filter_masks", lambda mix, masks, out, *options: asked.append(out.zero_()))
    filter_masks(mix, lambda bins: masks[:, :, bins], iterations)
    assert bool(asked) == called


@compiled
@pytest.mark.parametrize("size", [1e-20, 1e-15, 1.0, 1e4, 1e6])
@pytest.mark.parametrize("exact", [True, False])
def test_its_limits_are_those_of_torch(size: float, exact: bool) -> None:
    """The least regularisation, which great powers raise, and the power below which nobody claims a bin."""
    mix, masks = 30 * torch.randn(2, 40, 60, dtype=torch.complex64), size * torch.rand(4, 1, 40, 60)
    mix[1] = mix[0] * (1 + 1e-4 * torch.randn(40, 60))          # where only that keeps the inverse sane
    found = filter_masks(mix, lambda bins: masks[:, :, bins], exact=exact)
    wanted = filter_masks(mix.to(torch.complex128), lambda bins: masks[:, :, bins].double(), exact=exact)
    assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max() + 1e-30     # single precision has no less


@compiled
def test_masks_and_mix_as_torch_takes_them() -> None:
    """Broadcast, conjugated lazily; and what does not fit is refused, not read beyond its end."""
    mix, masks = torch.randn(2, 70, 9, dtype=torch.complex64), torch.rand(4, 2, 70, 9)

    def filtered(mix: Tensor, masks: Tensor) -> Tensor:
        out = torch.empty(4, 2, 70, 9, dtype=torch.complex64)
        stereo.filter_masks(mix, masks, out, 1.0, 1e-10, False)
        return out

    assert torch.equal(filtered(mix, masks[:, :1]), filtered(mix, masks[:, :1].repeat(1, 2, 1, 1)))
    assert torch.equal(filtered(mix, masks[..., :1]), filtered(mix, masks[..., :1].repeat(1, 1, 1, 9)))
    assert torch.equal(filtered(mix.conj(), masks), filtered(mix.conj().resolve_conj(), masks))
    for wrong in (masks[:3], masks[..., :8], masks[:, :, :69]):
        with pytest.raises(RuntimeError, match="expand"):
            filtered(mix, wrong)
    with pytest.raises(ValueError, match=r"stems of \(4, 2, 70, 9\)"):
        filtered(mix[:, :69], masks)


@compiled
def test_a_library_of_another_version_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(stereo._Job):
        _fields_ = (("more", ctypes.c_double),)

    assert stereo.compiled.__wrapped__() is not None
    monkeypatch.setattr(stereo, "_Job", Later)
    assert stereo.compiled.__wrapped__() is None


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody forks here")
def test_a_forked_process_has_threads_of_its_own() -> None:
    code = """
import os, signal, torch
torch.set_num_threads(2)
from separator.dsp.stereo import filter_masks
mix, masks, out = torch.ones(2, 70, 9) + 0j, torch.ones(4, 2, 70, 9), torch.empty(4, 2, 70, 9) + 0j
filter_masks(mix, masks, out, 1.0, 1e-10, False)
if child := os.fork():
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    signal.alarm(20)
    filter_masks(mix, masks, out, 1.0, 1e-10, False)
    os._exit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "7\n", done.stderr


@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="builds with setuptools")
@pytest.mark.parametrize("compiler", ["cc", "false"])
def test_a_missing_compiler_is_no_failure(tmp_path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not here")
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path)]
    environment = {**os.environ, "CC": compiler}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert bool(list(tmp_path.rglob("_stereo*.so"))) == (compiler == "cc")
