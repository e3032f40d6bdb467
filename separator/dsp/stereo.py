"""The Wiener filter for two channels in C, where there was a compiler when sepctl was installed.

It is optional: without it `separator.dsp.wiener` does the same in torch, in several times the processor time. Called
through ctypes, so that neither Python's headers nor torch's are needed to compile it; with gcc or clang, not on
Windows.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

FEWEST = 32     # bins that are worth a thread of their own: a fifth of a millisecond


class _Job(ctypes.Structure):
    """The `struct job` of stereo.c. Pointers, and distances in floats."""

    tensors: tuple[Tensor, ...]  # that it points into: they live as long as it does, also after an interrupt
    _fields_ = [
        ("mix", ctypes.c_void_p), ("mix_channel", ctypes.c_ssize_t), ("mix_bin", ctypes.c_ssize_t),
        ("masks", ctypes.c_void_p), ("masks_stem", ctypes.c_ssize_t), ("masks_channel", ctypes.c_ssize_t),
        ("masks_bin", ctypes.c_ssize_t),
        ("out", ctypes.c_void_p), ("out_stem", ctypes.c_ssize_t), ("out_channel", ctypes.c_ssize_t),
        ("out_bin", ctypes.c_ssize_t),
        ("stems", ctypes.c_ssize_t), ("bins", ctypes.c_ssize_t), ("frames", ctypes.c_ssize_t),
        ("scale", ctypes.c_double), ("eps", ctypes.c_double), ("least", ctypes.c_double), ("exact", ctypes.c_int),
    ]


@cache
def compiled() -> Callable[[_Job], int] | None:
    """The function of stereo.c, if it is there and loads, and was compiled from a `struct job` of the same size."""
    found = importlib.util.find_spec("separator.dsp._stereo")
    if found is None or found.origin is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)
        function, size = library.sepctl_stereo_filter, ctypes.c_size_t.in_dll(library, "sepctl_stereo_job")
    except (OSError, AttributeError, ValueError):
        return None
    if size.value != ctypes.sizeof(_Job):
        return None
    function.argtypes, function.restype = [ctypes.POINTER(_Job)], ctypes.c_int
    return lambda job: int(function(ctypes.byref(job)))


def serves(mix: Tensor) -> bool:
    """Whether `filter_masks` can be asked for this mix `[C, F, T]`."""
    return mix.device.type == "cpu" and mix.dtype == torch.complex64 and len(mix) == 2 and compiled() is not None


def filter_masks(mix: Tensor, masks: Tensor, out: Tensor, scale: float, eps: float, exact: bool) -> None:
    """One iteration of the filter: mix `[2, F, T]` and masks `[S, 2, F, T]` -> `out`, `[S, 2, F, T]`.

    The bins are shared out among as many threads as torch has; each is computed by itself, so their number changes no
    bit. No gradients. Raises MemoryError, RuntimeError for masks of another shape, ValueError for such an `out`.
    """
    function = compiled()
    assert function is not None
    if out.shape[1:] != mix.shape or out.dtype != mix.dtype or out.stride(-1) != 1:
        raise ValueError(f"stems of {tuple(out.shape)}, {out.dtype} for a mix of {tuple(mix.shape)}")
    masks = masks.float().expand(out.shape)
    mix, masks = (each if each.stride(-1) == 1 else each.contiguous() for each in (mix.resolve_conj(), masks))
    step = max(-(-mix.shape[1] // torch.get_num_threads()), FEWEST)
    slices = [slice(low, low + step) for low in range(0, mix.shape[1], step)]
    jobs = [_job(mix[:, bins], masks[:, :, bins], out[:, :, bins], scale, eps, exact) for bins in slices]
    others = [_threads().submit(function, job) for job in jobs[1:]]
    failed = [function(jobs[0]), *(each.result() for each in others)]
    if any(failed):
        raise MemoryError("the Wiener filter")


def _job(mix: Tensor, masks: Tensor, out: Tensor, scale: float, eps: float, exact: bool) -> _Job:
    stems, _, bins, frames = masks.shape
    job = _Job(
        mix.data_ptr(), 2 * mix.stride(0), 2 * mix.stride(1), masks.data_ptr(), *masks.stride()[:3],
        out.data_ptr(), *(2 * each for each in out.stride()[:3]), stems, bins, frames, scale, eps, eps**0.5, exact,
    )
    job.tensors = mix, masks, out
    return job


@cache
def _threads() -> ThreadPoolExecutor:
    """As many as are ever busy at once: of a process, one song at a time is filtered."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="filter")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)     # threads do not survive it
