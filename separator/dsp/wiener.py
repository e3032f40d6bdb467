"""From first estimates of the stems to a consistent set: multichannel Wiener filter, shared residual."""

from __future__ import annotations

import torch
from torch import Tensor

CPU_BINS = 64       # bins filtered at once on a CPU: the work stays in its cache, and memory small
CPU_FRAMES = 32     # frames that share their residual at once there: likewise


def apply_masks(mix: Tensor, masks: Tensor) -> Tensor:
    """First estimates of the stems: mix `[..., C, F, T]` times masks `[..., S, C, F, T]` -> `[..., S, C, F, T]`."""
    return _times(mix.unsqueeze(-4), masks)


def refine(mix: Tensor, stems: Tensor, iterations: int = 1, eps: float = 1e-10) -> Tensor:
    """Refine stem estimates with the multichannel Wiener filter, by expectation-maximisation.

    Every stem j is a local Gaussian model v_j(f, t) R_j(f), power density times spatial covariance; its estimate is
    v_j R_j C^-1 x with C = sum_k v_k R_k + sqrt(eps) I. Model: Duong, Vincent & Gribonval, IEEE TASLP 18(7), 2010.
    Updates: Nugraha, Liutkus & Vincent, IEEE/ACM TASLP 24(9), 2016, as in `norbert` and `openunmix.filtering`.

    As there, the mix is filtered after a division by max(1, max|X| / 10), which is undone at the end: loud mixes keep
    the balance of signal and regularisation, quiet ones are attenuated where their power falls below sqrt(eps).
    Departures: the spatial covariances are summed in double precision, and for one and two channels no determinant is
    ever a difference of large numbers (see `_filter_stereo`), so identical channels are as good as any; the arguments
    are left as they are; and for one channel `norbert` adds eps to C a second time, at most 1e-5 of it at eps = 1e-10.

    Shape: mix `[C, F, T]` or `[B, C, F, T]`, stems `[S, C, F, T]` or `[B, S, C, F, T]`, complex -> new stems of the
    same shape. The scale is each batch item's own.
    """
    if mix.dim() == 4:
        return torch.stack([refine(m, s, iterations, eps) for m, s in zip(mix, stems, strict=True)])
    scale = (_square(mix).max().sqrt() / 10).clamp(min=1)
    step = CPU_BINS if mix.device.type == "cpu" else mix.shape[-2]
    refined = stems.new_empty(stems.mT.shape).mT                                # bins side by side, as Stft has them
    for low in range(0, mix.shape[-2], step):
        x = _times(mix[:, low : low + step].movedim(-2, 0).contiguous(), 1 / scale)         # [F, C, T]
        y = _times(stems[:, :, low : low + step].movedim(-2, 0).contiguous(), 1 / scale)    # [F, S, C, T]
        for _ in range(iterations):
            y = _filter(x, y, eps)
        refined[:, :, low : low + step] = _times(y, scale).movedim(0, -2)
    return refined


def share_residual(mix: Tensor, stems: Tensor) -> Tensor:
    """Give out what no stem claims, in proportion to the stems' power in each bin, so that the stems sum to the mix.

    Where all stems are zero they get equal shares.

    Shape: mix `[..., C, F, T]`, stems `[..., S, C, F, T]`, complex -> new stems of the same shape.
    """
    step = CPU_FRAMES if mix.device.type == "cpu" else mix.shape[-1]
    shared = stems.new_empty(stems.mT.shape).mT                                 # bins side by side, as Stft has them
    for some, x, y in zip(shared.split(step, -1), mix.split(step, -1), stems.split(step, -1), strict=True):
        power = _square(y)
        total = power.sum(dim=-4, keepdim=True)
        share = torch.where(total > 0, power / total, 1 / stems.shape[-4])
        torch.add(y, _times((x - y.sum(dim=-4)).unsqueeze(-4), share), out=some)
    return shared


def _filter(x: Tensor, y: Tensor, eps: float) -> Tensor:
    """One iteration: mix `[F, C, T]`, stems `[F, S, C, T]` -> stems `[F, S, C, T]`."""
    wide = y.to(torch.complex128)
    gram = wide @ wide.mH                                                       # [F, S, C, C]
    trace = gram.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    space = gram / (eps + trace / x.shape[-2])[..., None, None]                 # R; the power is a mean over channels
    power = _square(y).mean(dim=-2)                                             # v: [F, S, T]
    match x.shape[-2]:
        case 1:
            return _filter_mono(x, power, space, eps**0.5)
        case 2:
            return _filter_stereo(x, power, space, eps**0.5)
    return _filter_any(x, power, space, eps**0.5)


def _filter_mono(x: Tensor, power: Tensor, space: Tensor, floor: float) -> Tensor:
    """The filter for one channel: the stem's share of the power."""
    own = power * space[:, :, 0].real.to(power.dtype)                           # [F, S, T]
    return _times(x, own / (own.sum(-2, keepdim=True) + floor))[:, :, None]


def _filter_stereo(x: Tensor, power: Tensor, space: Tensor, floor: float) -> Tensor:
    """The filter for two channels, in closed form, with e = `floor`.

    The adjugate of a 2x2 matrix is linear: adj C = e I + sum_k v_k adj R_k. With G_jk = R_j adj R_k, which depends on
    f alone and is affordable in double precision,

        R_j C^-1 x = (e R_j x + sum_k v_k G_jk x) / det C
        det C      = e^2 + sum_j v_j (e tr R_j + 1/2 sum_k v_k tr G_jk)

    because tr G_jk is the mixed discriminant of R_j and R_k (tr G_jj = 2 det R_j). None of these traces is negative,
    so det C is at least e^2 and free of cancellation. Inverting C itself in single precision loses everything when
    the channels are alike: its determinant is a difference of products of size v^2, and can even come out as zero.
    """
    bins, stems, frames = power.shape
    a, b, c, d = space.flatten(-2).unbind(-1)                                   # R = [[a, b], [c, d]]: [F, S]
    adjugate = torch.stack([d, -b, -c, a], dim=-1).view_as(space)
    product = torch.einsum("fjab,fkbc->fjakc", space, adjugate)                 # G: [F, S, C, S, C]
    cross = torch.einsum("fjaka->fjk", product).real.clamp(min=0).to(power.dtype)
    trace = (a + d).real.to(power.dtype)[..., None]                             # [F, S, 1]
    det = floor**2 + (power * (floor * trace + (cross @ power) / 2)).sum(-2, keepdim=True)      # [F, 1, T]
    maps = torch.cat([floor * space[:, :, :, None], product], dim=3)            # [F, S, C, 1 + S, C]
    inputs = torch.cat([x[:, None], _times(x[:, None], power[:, :, None])], dim=1)              # [F, 1 + S, C, T]
    outputs = maps.view(bins, 2 * stems, -1).to(x.dtype) @ inputs.view(bins, -1, frames)        # [F, S * C, T]
    return _times(outputs.view(bins, stems, 2, frames), (power / det)[:, :, None])


def _filter_any(x: Tensor, power: Tensor, space: Tensor, floor: float) -> Tensor:
    """The filter for any number of channels, solved in double precision."""
    total = torch.einsum("fjt,fjab->ftab", power.to(space.dtype), space)
    total = total + floor * torch.eye(x.shape[-2], dtype=space.dtype, device=x.device)
    white = torch.linalg.solve(total, x.to(space.dtype).mT)                     # C^-1 x: [F, T, C]
    own = torch.einsum("fjt,fjab,ftb->fjat", power.to(space.dtype), space, white)
    return own.to(x.dtype)


def _times(z: Tensor, gain: Tensor) -> Tensor:
    """Complex times real, without promoting the real factor to complex."""
    return torch.view_as_complex(torch.view_as_real(z) * gain[..., None])


def _square(z: Tensor) -> Tensor:
    """|z|^2 without a square root."""
    return torch.view_as_real(z).square().sum(-1)
