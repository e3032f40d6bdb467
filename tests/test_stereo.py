"""The compiled filter: how it is built, and what `test_wiener` does not see, which holds its numbers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
