"""From masks to a consistent set of stems: shared residual, multichannel Wiener filter.

The filter's memory order is bins first, frames side by side (`[F, ..., T]`): its statistics are sums over the frames of
one bin, and its products small matrices per bin times long rows of frames.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WIDE = 256          # bins that a network answers for at once on a CPU: enough for fast products
CPU_BINS = 32       # bins filtered at once on a CPU: the work stays in its cache, and memory small


def apply_masks(mix: Tensor, masks: Tensor) -> Tensor:
    """Stems as masked mixes: mix `[..., C, F, T]` times masks `[..., S, C, F, T]` -> `[..., S, C, F, T]`."""
    return _times(mix.unsqueeze(-4), masks)


def share_masks(masks: Tensor) -> Tensor:
    """Masks that sum to one: what no stem claims is given out in proportion to the stems' power in each bin.

    Where all masks are zero they get equal shares. Element by element, so masks of bands do as well as masks of bins.

    Shape: masks `[..., S, C, F, T]`, real -> new masks of the same shape.
    """
    power = masks.square()
    total = _sum_stems(power)
    share = torch.where(total > 0, power / total, 1 / masks.shape[-4])
    return torch.addcmul(masks, 1 - _sum_stems(masks), share)


def _sum_stems(values: Tensor) -> Tensor:
    """`[..., S, C, F, T]` -> `[..., 1, C, F, T]`; unlike `sum` it keeps the order in memory, whatever that is."""
    first, *others = values.unbind(-4)
    return sum(others, first).unsqueeze(-4)


def filter_masks(
    mix: Tensor, masks: Callable[[slice], Tensor], iterations: int = 1, *, exact: bool = False, eps: float = 1e-10
) -> Tensor:
    """As `refine` of the masked mix, without ever making it: the first estimates are real multiples of the mix.

    exact: make the stems sum to the mix. What the filter leaves to nobody, sqrt(eps) C^-1 x, is given out in proportion
        to the stems' power densities, an isotropic addition to their spatial covariances.

    Shape: mix `[C, F, T]`, complex; `masks` is asked for `WIDE` bins at a time, so that not all need be there at once,
    `[S, C, f, T]`, real -> stems `[S, C, F, T]`, frames contiguous. Fastest where frames are contiguous in the masks.
    """
    scale = _scale(mix)
    first, *others = _slices(mix, WIDE)
    given = masks(first)
    stems = torch.empty(len(given), *mix.shape, dtype=mix.dtype, device=mix.device)
    for wide in (first, *others):
        given = given if wide is first else masks(wide)
        for bins in _slices(given, CPU_BINS):
            x = mix[:, wide][:, bins].movedim(-2, 0).contiguous() * (1 / scale)         # [F, C, T]
            power, space = _power_of_masks(x, given[:, :, bins].movedim(-2, 0), eps)
            for _ in range(iterations - 1):
                power, space = _power(_filter(x, power, space, eps), eps)
            y = _filter(x, power, space, eps)                                           # [F, S, C, T]
            if exact:
                y += (x - y.sum(dim=1))[:, None] * _shares(power)[:, :, None].to(x.dtype)
            torch.mul(y, scale, out=stems[:, :, wide][:, :, bins].movedim(-2, 0))
    return stems


def refine(mix: Tensor, stems: Tensor, iterations: int = 1, eps: float = 1e-10) -> Tensor:
    """Refine stem estimates with the multichannel Wiener filter, by expectation-maximisation.

    Every stem j is a local Gaussian model v_j(f, t) R_j(f), power density times spatial covariance; its estimate is
    v_j R_j C^-1 x with C = sum_k v_k R_k + sqrt(eps) I. Model: Duong, Vincent & Gribonval, IEEE TASLP 18(7), 2010.
    Updates: Nugraha, Liutkus & Vincent, IEEE/ACM TASLP 24(9), 2016, as in `norbert` and `openunmix.filtering`.

    As there, the mix is filtered after a division by max(1, max|X| / 10), which is undone at the end: loud mixes keep
    the balance of signal and regularisation, quiet ones are attenuated where their power falls below sqrt(eps).
    Departures: for one and two channels no determinant is ever a difference of large numbers (see `_filter_stereo`), so
    identical channels are as good as any; the arguments are left as they are; and for one channel `norbert` adds eps to
    C a second time, at most 1e-5 of it at eps = 1e-10.

    Shape: mix `[C, F, T]` or `[B, C, F, T]`, stems `[S, C, F, T]` or `[B, S, C, F, T]`, complex -> new stems of the
    same shape. The scale is each batch item's own.
    """
    if mix.dim() == 4:
        return torch.stack([refine(m, s, iterations, eps) for m, s in zip(mix, stems, strict=True)])
    scale = _scale(mix)
    refined = torch.empty(stems.shape, dtype=stems.dtype, device=stems.device)
    for bins in _slices(mix, CPU_BINS):
        x = mix[:, bins].movedim(-2, 0).contiguous() * (1 / scale)              # [F, C, T]
        y = stems[:, :, bins].movedim(-2, 0).contiguous() * (1 / scale)         # [F, S, C, T]
        for _ in range(iterations):
            y = _filter(x, *_power(y, eps), eps)
        torch.mul(y, scale, out=refined[:, :, bins].movedim(-2, 0))
    return refined


def _scale(mix: Tensor) -> Tensor:
    return ((mix * mix.conj()).real.max().sqrt() / 10).clamp(min=1)


def _slices(spectrum: Tensor, step: int) -> list[slice]:
    """All bins of `[..., F, T]`, as many at a time on a CPU; elsewhere at once."""
    bins = spectrum.shape[-2]
    step = step if spectrum.device.type == "cpu" else bins
    return [slice(low, min(low + step, bins)) for low in range(0, bins, step)]


def _power_of_masks(x: Tensor, masks: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `_power` of y = m x, from the mix `[F, C, T]` and masks `[F, S, C, T]`: y_c conj(y_d) = m_c m_d x_c conj(x_d).

    In double precision from the products on: rounded singly, channels alike would lose what little tells them apart.
    """
    wide, masks = x.to(torch.complex128), masks.to(torch.float64)
    each = masks.square().mul_(_square(wide)[:, None])                          # |y|^2: [F, S, C, T]
    gram = torch.diag_embed(each.sum(-1)).to(wide.dtype)                        # [F, S, C, C]
    for c in range(x.shape[-2]):
        for d in range(c):
            cross = torch.view_as_real(wide[:, c] * wide[:, d].conj())          # [F, T, 2]
            gram[..., c, d] = torch.view_as_complex((masks[:, :, c] * masks[:, :, d]) @ cross)
            gram[..., d, c] = gram[..., c, d].conj()
    return _channel_mean(each).to(x.real.dtype), _covariance(gram, eps)


def _power(y: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The model of estimates `[F, S, C, T]`: power density v `[F, S, T]`, covariance R `[F, S, C, C]` (double)."""
    wide = y.to(torch.complex128)
    return _channel_mean(_square(y)), _covariance(wide @ wide.mH, eps)


def _channel_mean(power: Tensor) -> Tensor:
    """`[F, S, C, T]` -> `[F, S, T]`; sums of whole rows are several times faster than a mean over a short axis."""
    first, *others = power.unbind(-2)
    return sum(others, first) / (1 + len(others))


def _covariance(gram: Tensor, eps: float) -> Tensor:
    """R, from sums over frames: divided by the sum of the power density, a mean over channels."""
    trace = gram.diagonal(dim1=-2, dim2=-1).real.sum(-1)                        # [F, S]
    return gram / (eps + trace / gram.shape[-1])[..., None, None]


def _filter(x: Tensor, power: Tensor, space: Tensor, eps: float) -> Tensor:
    """Estimates from the model: mix `[F, C, T]`, v `[F, S, T]`, R `[F, S, C, C]` -> stems `[F, S, C, T]`."""
    match x.shape[-2]:
        case 1:
            return _filter_mono(x, power, space, eps**0.5)
        case 2:
            return _filter_stereo(x, power, space, eps**0.5)
    return _filter_any(x, power, space, eps**0.5)


def _shares(power: Tensor) -> Tensor:
    """v_j / sum_k v_k, or equal shares where all are zero. Shape: `[F, S, T]`."""
    total = power.sum(dim=-2, keepdim=True)
    return torch.where(total > 0, power / total, 1 / power.shape[-2])


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
    cross = torch.einsum("fjaka->fjk", product).real.clamp(min=0).to(power.dtype) / 2
    trace = floor * (a + d).real.to(power.dtype)[..., None]                     # [F, S, 1]
    det = floor**2 + (power * (trace + cross @ power)).sum(-2, keepdim=True)    # [F, 1, T]
    maps = torch.cat([floor * space[:, :, :, None], product], dim=3)            # [F, S, C, 1 + S, C]
    inputs = x.new_empty(bins, 1 + stems, 2, frames)
    inputs[:, 0] = x
    torch.mul(x[:, None], power[:, :, None].to(x.dtype), out=inputs[:, 1:])
    outputs = maps.view(bins, 2 * stems, -1).to(x.dtype) @ inputs.view(bins, -1, frames)        # [F, S * C, T]
    return outputs.view(bins, stems, 2, frames).mul_((power / det)[:, :, None].to(x.dtype))


def _filter_any(x: Tensor, power: Tensor, space: Tensor, floor: float) -> Tensor:
    """The filter for any number of channels, solved in double precision."""
    total = torch.einsum("fjt,fjab->ftab", power.to(space.dtype), space)
    total = total + floor * torch.eye(x.shape[-2], dtype=space.dtype, device=x.device)
    white = torch.linalg.solve(total, x.to(space.dtype).mT)                     # C^-1 x: [F, T, C]
    own = torch.einsum("fjt,fjab,ftb->fjat", power.to(space.dtype), space, white)
    return own.to(x.dtype)


def _times(z: Tensor, gain: Tensor) -> Tensor:
    """Complex times real, as a complex product: broadcast over the pairs of `view_as_real` is up to 50 times slower."""
    return z * gain.to(z.dtype)


def _square(z: Tensor) -> Tensor:
    """|z|^2 without a square root."""
    return torch.addcmul(z.real.square(), z.imag, z.imag)
