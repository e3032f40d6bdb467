"""What is scored: a model, and oracles to compare it with, which know the true stems or do nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from separator.dsp.segments import Segments
from separator.dsp.stft import Stft
from separator.dsp.wiener import WINDOW, refine
from separator.separate import Separator

Method = Callable[[Iterable[Tensor], int], Iterator[Tensor]]
"""From blocks `[1 + A, 2, n]`, the mix and all its true stems, and their rate, to estimates `[S, 2, n]` in blocks.

The estimates are of the first S stems. One pass, in fixed memory.
"""



def model(separator: Separator, stems: Sequence[str] | None = None) -> Method:
    """A model: it hears the mix alone. `stems`: which of its stems, in that order; None: all."""
    rows = [separator.stems.index(stem) for stem in stems or separator.stems]
    return lambda blocks, rate: (
        each[rows] for each in separator.stream((block[0] for block in blocks), rate)
    )


def mix_itself(blocks: Iterable[Tensor], rate: int) -> Iterator[Tensor]:
    """The floor: the untouched mix as estimate of every stem."""
    return (block[:1].expand_as(block[1:]) for block in blocks)


def ratio_mask(blocks: Iterable[Tensor], rate: int, power: int = 1) -> Iterator[Tensor]:
    """An oracle: the ideal ratio mask `|s_j|^p / sum_k |s_k|^p` per channel, made from the true stems."""

    def masked(mix: Tensor, stems: Tensor) -> Tensor:
        part = stems.abs() ** power
        return mix * part / part.sum(dim=0).clamp_min(1e-12**power)

    return _in_segments(masked, blocks)


def power_ratio_mask(blocks: Iterable[Tensor], rate: int) -> Iterator[Tensor]:
    """An oracle: `ratio_mask` of powers, the Wiener filter of one channel."""
    return ratio_mask(blocks, rate, power=2)


def wiener_filter(blocks: Iterable[Tensor], rate: int) -> Iterator[Tensor]:
    """An oracle: the multichannel Wiener filter (see `refine`) whose powers and covariances are the true stems'.

    The spatial covariances are those of windows of 300 frames, as in `openunmix`.
    """
    return _in_segments(refine, blocks)


ORACLES: Mapping[str, Method] = {
    "mix": mix_itself,
    "irm1": ratio_mask,
    "irm2": power_ratio_mask,
    "mwf": wiener_filter,
}


def _in_segments(estimate: Callable[[Tensor, Tensor], Tensor], blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Apply `estimate` to spectra, mix `[2, F, T]` and stems `[A, 2, F, T]` -> `[A, 2, F, T]`, n_fft 4096, hop 1024."""
    stft = Stft(4096, 1024)
    segments = Segments(stft, kept=WINDOW)

    def separated(segment: Tensor) -> Tensor:
        spectra = stft.analyse(segment.unflatten(0, (-1, 2)))  # [1 + A, 2, F, T]
        estimates = estimate(spectra[0], spectra[1:])
        sums = segment.new_zeros(*estimates.shape[:2], stft.samples(estimates.shape[-1]))
        stft.overlap_add(sums, estimates, 0)
        return sums

    return segments.join(separated(segment) for segment, _ in segments.cut(block.flatten(0, 1) for block in blocks))
