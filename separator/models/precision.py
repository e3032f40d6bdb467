"""Numbers in which a network's layers compute. What comes in and goes out, and all around the network, is float32."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from separator.errors import UsageError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_NATIVE = ("avx512_bf16", "amx_bf16", "bf16")   # names in `torch.cpu.get_capabilities`, of x86 and of Arm


def resolve(precision: Precision, device: torch.device) -> Precision:
    """What `auto` means on this device; anything else as it is.

    bf16 where the hardware multiplies it natively, fp16 on older CUDA devices, else fp32: emulated, bf16 is slower. A
    matter of the hardware alone, never of a timing: the same machine always gives the same samples.

    Raises UsageError for an unknown name, and for fp16 on a CPU, which has no fast products of it.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}", hint=f"one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("precision fp16 is for CUDA devices", hint="bf16 is the half precision of CPUs")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and any(torch.cpu.get_capabilities().get(name) for name in _NATIVE):
        return "bf16"
    return "fp32"

