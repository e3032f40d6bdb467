"""From masks to a consistent set of stems: shared residual, multichannel Wiener filter.

The filter's memory order is bins first, frames side by side (`[F, ..., T]`): its statistics are sums over the frames of
one bin, and its products small matrices per bin times long rows of frames.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from separator.dsp import stereo
from separator.dsp.stft import power_of

WINDOW = 300        # frames over which the filter takes its statistics; Open-Unmix's, about 7 s
WIDE = 256          # bins that a network answers for at once on a CPU: enough for fast products
CPU_BINS = 128      # bins filtered at once on a CPU: enough for all its threads, and memory stays small
FLOOR = 1e-10       # of a bin's largest power: the least regularisation that double precision can do with
NOBODY = 1e-30      # a power below which nobody claims a bin


def share_masks(masks: Tensor, residual: int | None = None) -> Tensor:
    """Masks that sum to one.

    Where stems claim more than there is, all give way in proportion. Of a part d that no stem claims, each gets its
    mask times d, and the residual what then is left, d^2: small gaps are an uncertainty of all, and large ones
    something that no stem knows. Without a residual stem all is shared out in proportion, where no stem claims
    anything in equal parts. Element by element, so masks of bands do as well as masks of bins; differentiable.

    Shape: masks `[..., S, C, F, T]`, real and not negative -> new masks of the same shape; `residual` is a number of S.
    """
    total = _sum_stems(masks)
    if residual is None:
        return (masks + NOBODY) / (total + masks.shape[-4] * NOBODY)
    left = (1 - total).clamp_min(0)
    shared = masks * (total.clamp_min(1).reciprocal() + left)
    shared.narrow(-4, residual, 1).addcmul_(left, left)
    return shared


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
    one = torch.ones_like(scale, dtype=torch.float64)
    first, *others = _slices(mix, WIDE)
    given = masks(first)
    stems = torch.empty(len(given), *mix.shape, dtype=mix.dtype, device=mix.device)
    for wide in (first, *others):
        given = given if wide is first else masks(wide)
        if iterations == 1 and stereo.serves(mix):
            stereo.filter_masks(mix[:, wide], given, stems[:, :, wide], float(scale), eps, exact)
            continue
        for bins in _slices(given, CPU_BINS):
            x = _planes(mix[:, wide][:, bins], scale)                               # [F, C, 2, T]
            power, space = _power_of_masks(x, given[:, :, bins].movedim(-2, 0), eps)
            for _ in range(iterations - 1):
                power, space = _power(_filter(x, power, space, one, eps), eps)
            y = _filter(x, power, space, scale, eps, exact=exact)                   # [F, S, C, 2, T]
            torch.complex(*y.unbind(-2), out=stems[:, :, wide][:, :, bins].movedim(-2, 0))
    return stems


def refine(mix: Tensor, stems: Tensor, iterations: int = 1, eps: float = 1e-10) -> Tensor:
    """Refine stem estimates with the multichannel Wiener filter, by expectation-maximisation.

    Every stem j is a local Gaussian model v_j(f, t) R_j(f), power density times spatial covariance; its estimate is
    v_j R_j C^-1 x with C = sum_k v_k R_k + sqrt(eps) I. Model: Duong, Vincent & Gribonval, IEEE TASLP 18(7), 2010.
    Updates: Nugraha, Liutkus & Vincent, IEEE/ACM TASLP 24(9), 2016, as in `norbert` and `openunmix.filtering`.

    As there, the mix is filtered after a division by max(1, max|X| / 10), which is undone at the end: loud mixes keep
    the balance of signal and regularisation, quiet ones are attenuated where their power falls below sqrt(eps).
    Departures: all that could cancel is computed in double precision, and the regularisation is at least `FLOOR` of the
    bin's largest power, so that identical channels are as good as any; the arguments are left as they are; and for one
    channel `norbert` adds eps to C a second time, at most 1e-5 of it at eps = 1e-10.

    Shape: mix `[C, F, T]` or `[B, C, F, T]`, stems `[S, C, F, T]` or `[B, S, C, F, T]`, complex -> new stems of the
    same shape. The scale is each batch item's own.
    """
    if mix.dim() == 4:
        return torch.stack([refine(m, s, iterations, eps) for m, s in zip(mix, stems, strict=True)])
    scale = _scale(mix)
    one = torch.ones_like(scale, dtype=torch.float64)
    refined = stems.clone(memory_format=torch.contiguous_format)
    for bins in _slices(mix, CPU_BINS) if iterations else ():
        x, y = (_planes(each[..., bins, :], scale) for each in (mix, stems))    # [F, C, 2, T], [F, S, C, 2, T]
        for left in reversed(range(iterations)):
            y = _filter(x, *_power(y, eps), one if left else scale, eps)
        torch.complex(*y.unbind(-2), out=refined[:, :, bins].movedim(-2, 0))
    return refined


def _scale(mix: Tensor) -> Tensor:
    return (power_of(mix).amax().sqrt() / 10).clamp(min=1)


def _planes(z: Tensor, scale: Tensor) -> Tensor:
    """Complex `[..., F, T]` over the scale -> real and imaginary parts `[F, ..., 2, T]` in double precision."""
    parts = torch.view_as_real(z.movedim(-2, 0)).mT
    return torch.empty(parts.shape, dtype=torch.float64, device=z.device).copy_(parts).div_(scale)


def _slices(spectrum: Tensor, step: int) -> list[slice]:
    """All bins of `[..., F, T]`, as many at a time on a CPU; elsewhere at once."""
    bins = spectrum.shape[-2]
    step = step if spectrum.device.type == "cpu" else bins
    return [slice(low, min(low + step, bins)) for low in range(0, bins, step)]


def _power_of_masks(x: Tensor, masks: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `_power` of y = m x, from the mix `[F, C, 2, T]` and masks `[F, S, C, T]`: y_c y_d* = m_c m_d x_c x_d*.

    In double precision: rounded singly, channels alike would lose what little tells them apart.
    """
    bins, channels, _, frames = x.shape
    stems = masks.shape[1]
    pairs = [(c, c) for c in range(channels)] + [(c, d) for c in range(channels) for d in range(c)]
    gains = x.new_empty(bins, channels, stems, frames).copy_(masks.transpose(1, 2))
    weights = x.new_empty(bins, len(pairs), stems, frames)                      # m_c m_d
    torch.mul(gains, gains, out=weights[:, :channels])
    crosses = x.new_empty(bins, channels**2, frames)                            # |x_c|^2, then x_c conj(x_d) as pairs
    torch.sum(x * x, dim=-2, out=crosses[:, :channels])
    for row, (c, d) in enumerate(pairs[channels:], channels):
        torch.mul(gains[:, c], gains[:, d], out=weights[:, row])
        real, imaginary = crosses[:, 2 * row - channels :][:, :2].unbind(1)
        torch.mul(x[:, c, 0], x[:, d, 0], out=real).addcmul_(x[:, c, 1], x[:, d, 1])
        torch.mul(x[:, c, 1], x[:, d, 0], out=imaginary).addcmul_(x[:, c, 0], x[:, d, 1], value=-1)
    sums = weights.flatten(1, 2) @ crosses.mT                                   # of all with all: one product
    sums = sums.unflatten(1, (len(pairs), stems))                               # [F, pairs, S, crosses]
    gram = sums.new_zeros(bins, stems, channels, channels, dtype=torch.complex128)
    for row, (c, d) in enumerate(pairs):
        at = row if c == d else 2 * row - channels
        gram[..., c, d].real = sums[:, row, :, at]
        if c != d:
            gram[..., c, d].imag = sums[:, row, :, at + 1]
            gram[..., d, c] = gram[..., c, d].conj()
    power = weights[:, 0] * crosses[:, :1]
    for c in range(1, channels):
        power.addcmul_(weights[:, c], crosses[:, c : c + 1])
    return power.div_(channels), _covariance(gram, eps)


def _power(y: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The model of estimates `[F, S, C, 2, T]`: power density v `[F, S, T]`, covariance R `[F, S, C, C]`, complex."""
    z = torch.complex(*y.unbind(-2))
    return y.square().sum(dim=(2, 3)) / y.shape[2], _covariance(z @ z.mH, eps)


def _covariance(gram: Tensor, eps: float) -> Tensor:
    """R, from sums over frames: divided by the sum of the power density, a mean over channels."""
    trace = gram.diagonal(dim1=-2, dim2=-1).real.sum(-1)                        # [F, S]
    return gram / (eps + trace / gram.shape[-1])[..., None, None]


def _filter(x: Tensor, power: Tensor, space: Tensor, scale: Tensor, eps: float, *, exact: bool = False) -> Tensor:
    """Estimates v_j R_j w from the model, with w = C^-1 x: mix `[F, C, 2, T]` -> stems `[F, S, C, 2, T]`.

    What they leave is sqrt(eps) w, for C w = x; `exact` gives it out too. They come out times `scale`, in its
    precision: the model needs double precision, its answer does not.
    """
    bins, stems, channels = space.shape[:3]
    total = power.sum(dim=1, keepdim=True)
    floor = (FLOOR * total.amax(dim=(1, 2), keepdim=True)).clamp(min=eps**0.5)     # of each bin
    white = x.new_empty(bins, 1 + exact, 2 * channels, x.shape[-1], dtype=scale.dtype)
    white[:, 0] = _whiten(x, power, space, floor).flatten(1, 2)
    gains = (power * scale).to(scale.dtype)
    maps = torch.view_as_real(torch.stack([space, 1j * space], dim=-1)).mT      # z -> R z as planes: [F, S, C, C, 2, 2]
    maps = maps.transpose(3, 4).reshape(bins, stems, 2 * channels, 2 * channels).to(scale.dtype)
    if exact:
        if bool((total < NOBODY).any()):                                        # equal shares of what nobody claims
            gains.masked_fill_(total < NOBODY, NOBODY * scale)
        left = floor / total.clamp(min=stems * NOBODY)
        torch.mul(white[:, 0], left.to(scale.dtype), out=white[:, 1])
        maps = torch.cat([maps, torch.eye(2 * channels).to(maps).expand_as(maps)], dim=-1)
    y = maps.flatten(1, 2) @ white.flatten(1, 2)
    return y.view(bins, stems, channels, 2, -1).mul_(gains[:, :, None, None])


def _whiten(x: Tensor, power: Tensor, space: Tensor, floor: Tensor) -> Tensor:
    """C^-1 x for planes `[F, C, 2, T]`, with C = sum_k v_k R_k + floor I, in double precision.

    Where channels are alike the determinant of C is a small difference of large products: single precision loses it,
    and can even find it negative.
    """
    match x.shape[1]:
        case 1:
            return x / (space[:, :, 0].real.mT @ power + floor)[:, None]
        case 2:
            return _whiten_stereo(x, power, space, floor)
    total = torch.einsum("fjt,fjab->ftab", power.to(space.dtype), space)
    total = total + floor[..., None] * torch.eye(x.shape[1], dtype=space.dtype, device=x.device)
    white = torch.linalg.solve(total, torch.complex(*x.unbind(-2)).mT)          # [F, T, C]
    return torch.view_as_real(white.mT).mT


def _whiten_stereo(x: Tensor, power: Tensor, space: Tensor, floor: Tensor) -> Tensor:
    """In closed form: C = [[a, b], [b*, d]] has the inverse [[d, -b], [-b*, a]] / (a d - |b|^2)."""
    (a, b), (_, d) = (row.unbind(-1) for row in space.unbind(-2))               # [F, S]
    ends = torch.stack([d.real, a.real], dim=1) @ power + floor                 # d, a: [F, 2, T]
    real, imaginary = (torch.view_as_real(b).permute(0, 2, 1) @ power).unbind(1)
    det = (ends[:, 0] * ends[:, 1]).addcmul_(real, real, value=-1).addcmul_(imaginary, imaginary, value=-1)
    white, other = x * ends[:, :, None], x.flip(1)
    white.addcmul_(other, real[:, None, None], value=-1)
    for channel, sign in ((0, 1), (1, -1)):
        white[:, channel, 0].addcmul_(other[:, channel, 1], imaginary, value=sign)
        white[:, channel, 1].addcmul_(other[:, channel, 0], imaginary, value=-sign)
    return white.div_(det[:, None, None])
