"""From a song to its stems: every step a generator, memory set by the segment and not by the song."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from separator.card import ModelCard
from separator.dsp.rate import resample
from separator.dsp.segments import Segment, Segments
from separator.dsp.stft import Stft, in_blocks
from separator.dsp.wiener import WINDOW, filter_masks, share_masks
from separator.errors import AudioError, ModelError, ResourceError, UsageError
from separator.heap import keep_freed_memory
from separator.listening import Listened, check_audio, check_rate
from separator.models import prepare
from separator.models.estimator import EVERY
from separator.models.precision import DTYPES, Precision, resolve

log = logging.getLogger(__name__)

BLOCK = 1 << 16     # samples: what `separate` feeds to `stream` at a time
BATCH = {"cpu": 4, "cuda": 32}  # segments: the recurrent layers take hardly longer for so many than for one


class Separator:
    """Splits songs with one model and one set of options.

    >>> separator = Separator.load("mini", stems=["vocals"], rest="no_vocals")      # doctest: +SKIP
    >>> separator.separate(audio, 44100)["no_vocals"]                               # doctest: +SKIP

    `stems` are the outputs, in their order; `card` and `device` say with what and where. Of a segment, `kept` frames
    are used, and `context` more are heard on either side.
    """

    def __init__(
        self,
        card: ModelCard,
        estimator: nn.Module,
        *,
        stems: Sequence[str] | None = None,
        rest: str | None = None,
        wiener: int | None = None,
        exact_sum: bool = True,
        device: str | torch.device = "cpu",
        batch: int | None = None,
        precision: Precision = "auto",
    ) -> None:
        """Prepare to run `estimator`, the network that `card` describes.

        stems: those wanted, in that order; None: all of the model's. Only these are computed; the Wiener filter then
            knows the others as one, all that the wanted ones leave, which costs some quality and saves the time.
        rest: name of one more output, the mix minus the stems wanted.
        wiener: iterations of the multichannel Wiener filter, 0 for masks only; None: what the card says.
        exact_sum: make all stems together sum to the mix: what none of them claims of a bin is shared out, or goes to
            `card.residual` if it is much (`share_masks`); what remains then, rounding and sound above the model's
            range, goes there too, or to the last stem.
            Without effect where not all the stems are wanted, and on a model whose stems are not the whole mix: one
            of a single stem, or one whose card is not `complete`.
        batch: segments that pass the network together, at most; None: 4 on a CPU, 32 on CUDA.
        precision: of the network's layers: fp32, bf16, fp16 (CUDA), or auto: half precision where the hardware has it.
            `precision` of the separator then says which.

        Raises UsageError for options that contradict each other or the model, and for a device that is not there.
        """
        self.card = card
        self.device = _device(device)
        self.wiener = card.wiener if wiener is None else wiener
        self.exact_sum = exact_sum
        self.batch = BATCH.get(self.device.type, 4) if batch is None else batch
        self.rest = rest
        self._wanted = tuple(card.stems if stems is None else stems)
        self._check_options()
        self._whole = card.complete and len(self._wanted) == len(card.stems) > 1
        self.stems = self._wanted if rest is None else (*self._wanted, rest)
        self.precision = resolve(precision, self.device)
        self._estimator = prepare(estimator.eval().to(self.device), DTYPES[self.precision])
        self._network = estimator if self.device.type == "cuda" else None      # for when the card's memory runs out
        self._stft = Stft(card.n_fft, card.hop).to(self.device)
        self.context = round(card.context_s * card.sample_rate / card.hop)
        self.kept = max(round(card.segment_s * card.sample_rate / card.hop) - 2 * self.context, 1)
        if self.wiener and self.kept > WINDOW:      # whole windows of the filter: the same ones for the whole song
            self.kept -= self.kept % WINDOW

    @classmethod
    def load(cls, name_or_path: str | Path, *, sha256: str | None = None, **options: Any) -> Separator:
        """The separator of an installed model, or of a model file; `options` are those of the constructor.

        A string may be a name, a Path is a file. `sha256`: what the file's has to be, where another model in its place
        would be a mistake.
        On a CPU the process keeps, from now on, memory that it frees (`keep_freed_memory`): a fifth of the time.

        Raises ModelError where there is no such model, or its file is damaged or another.
        """
        from separator import modelfile, registry

        path = registry.resolve(name_or_path)
        card, estimator = modelfile.load(path)
        if sha256 is not None and modelfile.file_sha256(path) != sha256:
            raise ModelError(f"{path} has changed since this run began", hint="run the same command again")
        separator = cls(card, estimator, **options)
        if separator.device.type == "cpu":
            keep_freed_memory()
        return separator

    def separate(self, audio: Tensor, sample_rate: int) -> dict[str, Tensor]:
        """Split a song `[C, T]` in memory into its stems, each `[C, T]`. Options and errors as for `stream`."""
        check_audio(audio)
        blocks = audio.split(BLOCK, dim=-1)
        empty = torch.empty(len(self.stems), audio.shape[0], 0)
        joined = torch.cat([empty, *self.stream(blocks, sample_rate)], dim=-1)
        return dict(zip(self.stems, joined.unbind(), strict=True))

    def stream(self, blocks: Iterable[Tensor], sample_rate: int) -> Generator[Tensor, None, None]:
        """Split a song that comes in blocks `[C, any]`, and yield blocks `[S, C, n]` of its stems.

        The stems have the song's own rate, channels and length, and not a bit of them depends on the sizes of the
        blocks. Mono songs are given to all of the model's channels, whose answers are averaged. Blocks are copied, so
        one buffer may be filled again and again. Holds about `batch` segments and their stems, however long the song
        is.

        Raises UsageError for blocks that are not floating-point tensors of that shape; AudioError for more channels
        than the model has, and for samples that are not numbers; ModelError where the network answers with such;
        ResourceError where not even one segment fits into memory.
        """
        def narrowed(stems: Tensor) -> Tensor:
            return stems if song.channels == self.card.channels else stems.mean(dim=-2, keepdim=True)

        check_rate(sample_rate)
        song = Listened()
        heard = resample(song.listen(blocks), sample_rate, self.card.sample_rate)
        segments = Segments(Stft(self.card.n_fft, self.card.hop), self.kept, self.context)
        sums = self._run(segments.cut(self._widen(block) for block in heard))
        joined = segments.join(map(narrowed, sums))
        for part in _pieces(resample(joined, self.card.sample_rate, sample_rate)):
            mix = song.take(part.shape[-1])
            if mix.shape[-1]:                                   # back from another rate there may be one sample more
                yield self._complete(mix, part[..., : mix.shape[-1]])
            del part
        mix = song.take(None)                                   # or one less
        if mix.shape[-1]:
            yield self._complete(mix, mix.new_zeros(len(self._wanted), *mix.shape))

    def forward(self, mix: Tensor) -> Tensor:
        """Mixes `[B, C, T]` at the model's rate and channels -> the stems wanted, without the rest, `[B, S, C, T]`.

        Every mix passes whole: memory grows with T. The result is on the separator's device.
        """
        songs = [Segments(self._stft, self._stft.frames(each.shape[-1])) for each in mix]
        group = [segment for song, each in zip(songs, mix, strict=True) for segment in song.cut([each])]
        return torch.stack([
            torch.cat(list(song.join([sums])), dim=-1) for song, sums in zip(songs, self._forward(group), strict=True)
        ])

    def _forward(self, group: Sequence[Segment]) -> Iterator[Tensor]:
        """Segments of one length -> the sums of their stems' kept frames, `[S, C, n]`.

        The network hears all of them at once and then answers for one at a time, whose spectrum is made a second time:
        that costs little, and to keep them all would take more memory than everything else together.
        """
        mixes = [self._send(mix) for mix, _ in group]
        with torch.inference_mode():
            heard = self._estimator.hear(map(self._stft.analyse, mixes), self._wanted)
        for mix, state, (_, frames) in zip(mixes, heard, group, strict=True):
            yield self._answer(mix, state, frames)

    def _answer(self, mix: Tensor, heard: Tensor, frames: slice) -> Tensor:
        """The sum of the frames kept of one segment `[C, T]`: `[S, C, n]`."""
        samples = self._stft.samples(frames.stop - frames.start)
        sums = mix.new_zeros(len(self._wanted), len(mix), samples)              # not in inference mode: others go on
        with torch.inference_mode():
            kept = self._stft.analyse(mix)[..., frames]
            for start in range(0, kept.shape[-1], WINDOW):
                window = kept[..., start : start + WINDOW]
                here = slice(frames.start + start, frames.start + start + window.shape[-1])
                for stem, first, spectrum in self._spectra(window, heard, here):
                    self._stft.overlap_add(sums[stem], spectrum, start + first)
        if not all(bool(extreme.isfinite()) for extreme in sums.aminmax()):     # NaN, if any, is both extremes
            raise ModelError(f"{self.card.name} answered with values that are not finite",
                             hint="the model file may come from a training that diverged")
        return sums

    def _spectra(self, mix: Tensor, heard: Tensor, frames: slice) -> Iterator[tuple[int, int, Tensor]]:
        """A window of a mix `[C, F, t]`, the segment's `frames` -> number of a stem, first frame, `[C, F, any]`."""
        exact = self.exact_sum and self._whole
        if self.wiener:
            filtered = filter_masks(mix, self._known(heard, frames), self.wiener, exact=exact)
            for stem, spectrum in enumerate(filtered[: len(self._wanted)]):
                yield from ((stem, first, block) for first, block in in_blocks(spectrum))
            return
        masks = self._estimator.masks(heard, self._wanted, frames)
        for stem, mask in enumerate(share_masks(masks, self.card.heir(self._wanted)) if exact else masks):
            for (first, block), (_, gains) in zip(in_blocks(mix), in_blocks(mask), strict=True):
                yield stem, first, self._masked(block, gains)

    def _known(self, heard: Tensor, frames: slice) -> Callable[[slice], Tensor]:
        """A function from bins to their masks `[S, C, f, t]`, for the Wiener filter.

        It needs something to tell the stems from: all the others, or what is left.
        """
        bands = self._estimator.bands
        of_bands = None if bands is None else self._estimator.masks(heard, self._wanted, frames)

        def known(bins: slice) -> Tensor:
            if of_bands is None:
                masks = self._estimator.masks(heard, self._wanted, frames, bins)
            else:
                masks = self._per_bin(of_bands, bins)
            return masks if self._whole else torch.cat([masks, 1 - masks.sum(dim=0, keepdim=True)])

        return known

    def _masked(self, mix: Tensor, mask: Tensor) -> Tensor:
        """Mix `[C, F, T]` times mask `[C, K, T]`; both complex, for a product of the two kinds is far slower."""
        return self._per_bin(mask.to(mix.dtype)) * mix

    def _per_bin(self, masks: Tensor, bins: slice = EVERY) -> Tensor:
        """Masks `[..., K, T]`, one value per band -> one per bin, `[..., F, T]`."""
        bands = self._estimator.bands
        if bands is None:
            return masks
        rows = masks.mT                                                         # as fancy indexing, three times faster
        return rows.gather(-1, bands[bins].expand(*rows.shape[:-1], -1)).mT

    def _run(self, segments: Iterable[Segment]) -> Iterator[Tensor]:
        """Segments -> the sums of their stems' kept frames, `[S, C, n]`, on the processor.

        Neighbours of equal length pass the network together: two at first, so that the first stems come soon, then ever
        more. Which ones do follows from their lengths alone, so that it is the same whatever blocks a song came in.
        """
        group: list[Segment] = []
        size = 2
        for each in segments:
            if group and each[0].shape != group[0][0].shape:
                yield from self._run_group(group)
                group = []
            group.append(each)
            if len(group) >= min(size, self.batch):
                yield from self._run_group(group)
                group = []
                size *= 2
        if group:
            yield from self._run_group(group)

    def _run_group(self, group: list[Segment]) -> Iterator[Tensor]:
        """As `_run`, of equal lengths; where memory runs out, in halves from then on."""
        done = 0
        try:
            for sums in self._forward(group):
                sums = sums.cpu()
                done += 1
                yield sums
                del sums                    # before the next are made
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            if len(group) == 1 and self._network is None:
                seconds = group[0][0].shape[-1] / self.card.sample_rate
                raise ResourceError(f"a segment of {seconds:.0f} s does not fit into the memory of {self.device}",
                                    hint="free some memory, or use another device") from error
        else:
            return
        if len(group) == 1:                 # outside `except`: the error held the failed attempt's tensors
            self._leave_the_card()
        else:
            self.batch = len(group) // 2
            log.warning("out of memory on %s: going on with %d segments at once", self.device, self.batch)
        step = self.batch                   # it may change again meanwhile
        for first in range(done, len(group), step):
            yield from self._run_group(group[first : first + step])

    def _leave_the_card(self) -> None:
        """Go on with the processor."""
        assert self._network is not None
        log.warning("out of memory on %s: going on with the processor, which is slower", self.device)
        self.device, network, self._network = torch.device("cpu"), self._network, None
        self.precision, self.batch = resolve("auto", self.device), BATCH["cpu"]
        self._estimator = prepare(network.to(self.device), DTYPES[self.precision])
        self._stft.to(self.device)

    def _send(self, mix: Tensor) -> Tensor:
        """To the device; from pinned memory, so that the copies of a group overlap."""
        if self.device.type == "cuda":
            return mix.pin_memory().to(self.device, non_blocking=True)
        return mix.to(self.device)

    def _complete(self, mix: Tensor, stems: Tensor) -> Tensor:
        """At the song's own rate: add the rest, or give the remainder to the stem that is to have it."""
        if self.rest is not None:
            return torch.cat([stems, (mix - stems.sum(0))[None]])
        stems = stems.clone()
        if self.exact_sum and self._whole:
            heir = self.card.heir(self._wanted)
            stems[-1 if heir is None else heir] += mix - stems.sum(0)
        return stems

    def _widen(self, block: Tensor) -> Tensor:
        """Give a mono song to all of the model's channels."""
        if block.shape[0] == self.card.channels:
            return block
        if block.shape[0] == 1:
            return block.expand(self.card.channels, -1)
        raise AudioError(f"the song has {block.shape[0]} channels, and {self.card.name} takes {self.card.channels}",
                         hint="--downmix mixes them down")

    def _check_options(self) -> None:
        known = ", ".join(self.card.stems)
        for stem in self._wanted:
            if stem not in self.card.stems:
                raise UsageError(f"{self.card.name} has no stem {stem!r}", hint=f"its stems are {known}")
        if not self._wanted or len(set(self._wanted)) != len(self._wanted):
            raise UsageError("ask for each stem once, and for at least one", hint=f"{self.card.name} has {known}")
        if self.rest in self.card.stems:
            raise UsageError(f"the rest cannot be called {self.rest!r}", hint="that is a stem of the model")
        if self.wiener < 0 or self.batch < 1:
            raise UsageError(f"wiener must be at least 0 and batch at least 1 (got {self.wiener} and {self.batch})")


def _pieces(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Blocks `[..., n]` in pieces of at most `BLOCK`: to add to a piece, or to wait with it, takes little memory."""
    for block in blocks:
        yield from block.split(BLOCK, dim=-1)
        del block       # the next one takes as much memory


def _device(device: str | torch.device) -> torch.device:
    """The device, once it has taken and given back a number."""
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:      # a torch without CUDA asserts
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"device {str(device)!r} cannot be used: {reason}",
                         hint="pass 'cpu', or 'cuda' where torch.cuda.is_available()") from error
    return found


def _out_of_memory(error: BaseException) -> bool:
    """torch has a class of its own for this on an accelerator only."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
