"""What people own, made from songs whose stems are known: bad copies, other places, less than a whole band.

What a change does to a mix it does to every stem, so that the true stems stay known and still sum to the mix; noise
that it adds belongs to `other`. Codecs and rounding, which are not linear, change the mix alone: there the truth stays
as it was before them. All noise comes from a generator that is passed in, so that equal seeds give equal cases.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from separator.audio import AudioReader, StemFormat, StemWriter
from separator.dsp.rate import resample

Make = Callable[["Take", torch.Generator], "Take"]
TELEPHONE_HZ = 8000


@dataclass(frozen=True)
class Take:
    """A mix `[C, T]` and its true stems `[S, C, T]`, called `names`."""

    mix: Tensor
    stems: Tensor
    names: tuple[str, ...]
    sample_rate: int

    def made_of(self, stems: Tensor) -> Take:
        """Of other stems, with their sum as mix."""
        return replace(self, mix=stems.sum(dim=0), stems=stems)

    def heard_as(self, mix: Tensor) -> Take:
        """Another mix of the same stems."""
        return replace(self, mix=mix)

    def plus(self, name: str, sound: Tensor) -> Take:
        """With a sound `[C, T]` added to one of the stems, and so to the mix."""
        stems = self.stems.clone()
        stems[self.names.index(name)] += sound
        return replace(self, mix=self.mix + sound, stems=stems)

    def keeping(self, *names: str) -> Take:
        """With all stems but these silent."""
        kept = torch.tensor([name in names for name in self.names])
        return self.made_of(self.stems * kept[:, None, None])


@dataclass(frozen=True)
class Case:
    """One case: how it is made and, in words, what it is. `make` needs these stems to be audible in the song."""

    make: Make
    about: str
    needs: tuple[str, ...] = ()


# Changes of audio `[..., T]`; all but the codecs are linear.


def band(audio: Tensor, rate: int, low_hz: float, high_hz: float, order: int = 4) -> Tensor:
    """What lies between two frequencies: the magnitudes of Butterworth's filters of this order, without their phase."""
    length = audio.shape[-1] + rate  # a second of silence keeps the end from wrapping round to the start
    frequency = torch.fft.rfftfreq(length, 1 / rate).clamp_min(1e-3)
    gain = ((1 + (frequency / high_hz) ** (2 * order)) * (1 + (low_hz / frequency) ** (2 * order))).rsqrt()
    return torch.fft.irfft(torch.fft.rfft(audio, length) * gain, length)[..., : audio.shape[-1]]


def convolved(audio: Tensor, response: Tensor) -> Tensor:
    """Convolution with responses `[C, t]`, as long as the audio `[..., C, T]` was."""
    length = audio.shape[-1] + response.shape[-1] - 1
    spectrum = torch.fft.rfft(audio, length) * torch.fft.rfft(response, length)
    return torch.fft.irfft(spectrum, length)[..., : audio.shape[-1]]


def wow(audio: Tensor, rate: int, depth: float, turns_hz: float) -> Tensor:
    """Speed that swings by the part `depth` once per turn. For audio far below the Nyquist frequency: linear steps."""
    time = torch.arange(audio.shape[-1], dtype=torch.float64)
    ahead = depth * rate / (2 * math.pi * turns_hz) * (1 - torch.cos(2 * math.pi * turns_hz * time / rate))
    place = (time + ahead).clamp_max(audio.shape[-1] - 1)
    before = place.long().clamp_max(audio.shape[-1] - 2)
    part = (place - before).to(audio.dtype)
    return audio[..., before] * (1 - part) + audio[..., before + 1] * part


def mu_law(audio: Tensor) -> Tensor:
    """As eight bits of G.711's mu-law hold it, by the continuous formula; full scale is 1."""
    squeezed = audio.sign() * torch.log1p(255 * audio.abs().clamp_max(1)) / math.log(256)
    coded = (squeezed * 127).round() / 127
    return coded.sign() * torch.expm1(coded.abs() * math.log(256)) / 255


def mp3(audio: Tensor, rate: int, bitrate: int) -> Tensor:
    """To MP3 and back. Shape: `[C, T]`."""
    file = io.BytesIO()
    with StemWriter(file, StemFormat("mp3", bitrate=bitrate), rate, audio.shape[0]) as writer:
        writer.write(audio)
        writer.finish()
        writer.commit()
    file.seek(0)
    with AudioReader(file) as reader:
        decoded = torch.cat(list(reader), dim=-1)
    return torch.nn.functional.pad(decoded, (0, audio.shape[-1] - decoded.shape[-1]))


def at_rate(audio: Tensor, source: int, target: int) -> Tensor:
    return torch.cat(list(resample([audio], source, target)), dim=-1)


# Levels, and sounds to add.


def power(audio: Tensor) -> float:
    """Mean over channels and samples."""
    return float(audio.double().square().mean())


def peaking_at(take: Take, peak: float) -> Take:
    """With a gain that brings the mix to this peak; silence stays."""
    return take.made_of(take.stems * (peak / take.mix.abs().max().clamp_min(1e-9)))


def at_level(sound: Tensor, decibels: float, of: float = 1.0) -> Tensor:
    """A sound brought to a mean power of so many dB over the power `of`; silence stays."""
    own = power(sound)
    return sound * math.sqrt(of / own * 10 ** (decibels / 10)) if own else sound


def crackle(length: int, rate: int, rng: torch.Generator) -> Tensor:
    """A worn disc: 30 clicks a second, their sizes exponentially distributed. Shape: `[T]`."""
    hits = torch.rand(length, generator=rng) < 30 / rate
    return hits * torch.empty(length).exponential_(generator=rng) * torch.randn(length, generator=rng).sign()


def audience(length: int, rate: int, rng: torch.Generator) -> Tensor:
    """People in a hall: a murmur that swells and fades, and 60 claps a second. Shape: `[2, T]`."""
    murmur = band(torch.randn(2, length, generator=rng), rate, 200, 1500, order=1)
    swell = 1 + 0.7 * torch.sin(2 * math.pi * 0.1 * torch.arange(length) / rate)
    hits = (torch.rand(2, length, generator=rng) < 60 / rate) * torch.rand(2, length, generator=rng)
    decay = torch.exp(-torch.arange(rate // 20) / (0.006 * rate)) * torch.randn(rate // 20, generator=rng)
    claps = band(convolved(hits, decay), rate, 800, 6000, order=1)
    return at_level(murmur * swell, 0) + at_level(claps, -3)


def hall(rate: int, rng: torch.Generator, decay_s: float = 1.8, wet_db: float = -3.0) -> Tensor:
    """The response of a hall, direct sound first: after 20 ms noise that falls by 60 dB in `decay_s`. `[2, t]`."""
    late = torch.arange(round(decay_s * rate))
    tail = torch.randn(2, len(late), generator=rng) * 10 ** (-3 * late / len(late))
    tail = band(tail, rate, 100, 5000, order=1)  # air and curtains take the heights
    tail *= (10 ** (wet_db / 10) / tail.square().sum(dim=-1, keepdim=True)).sqrt()
    response = torch.nn.functional.pad(tail, (rate // 50, 0))
    response[:, 0] = 1
    return response


# Cases.


def as_it_is(take: Take, rng: torch.Generator) -> Take:
    return take


def small_mp3(take: Take, rng: torch.Generator) -> Take:
    return take.heard_as(mp3(take.mix, take.sample_rate, 96_000))


def mono(take: Take, rng: torch.Generator) -> Take:
    return take.made_of(take.stems.mean(dim=1, keepdim=True))


def old_recording(take: Take, rng: torch.Generator) -> Take:
    rate, length = take.sample_rate, take.mix.shape[-1]
    worn = mono(take, rng)
    worn = worn.made_of(wow(band(worn.stems, rate, 100, 5000), rate, depth=0.003, turns_hz=1.3))
    disc = at_level(torch.randn(length, generator=rng), 0) + at_level(crackle(length, rate, rng), 0)
    return worn.plus("other", at_level(band(disc, rate, 100, 5000), -30, power(worn.mix)))


def live_recording(take: Take, rng: torch.Generator) -> Take:
    played = take.made_of(convolved(take.stems, hall(take.sample_rate, rng)))
    people = audience(take.mix.shape[-1], take.sample_rate, rng)
    return played.plus("other", at_level(people, -20, power(played.mix)))


def telephone(take: Take, rng: torch.Generator) -> Take:
    stems = at_rate(mono(take, rng).stems[:, 0], take.sample_rate, TELEPHONE_HZ)
    line = replace(take, sample_rate=TELEPHONE_HZ).made_of(band(stems, TELEPHONE_HZ, 300, 3400, order=8)[:, None])
    line = peaking_at(line, 0.5)
    return line.heard_as(mu_law(line.mix))


def loud_master(take: Take, rng: torch.Generator) -> Take:
    pushed = peaking_at(take, 10 ** (12 / 20))
    gain = torch.where(pushed.mix == 0, 1.0, torch.tanh(pushed.mix) / pushed.mix)  # one for all stems, sample by sample
    return pushed.made_of(pushed.stems * gain)


def quiet_transfer(take: Take, rng: torch.Generator) -> Take:
    quiet = peaking_at(take, 0.01)
    return quiet.heard_as((quiet.mix * 2**15).round() / 2**15)


def silence(take: Take, rng: torch.Generator) -> Take:
    return take.keeping()


def noise(take: Take, rng: torch.Generator) -> Take:
    sound = torch.randn(take.mix.shape, generator=rng)
    return take.keeping().plus("other", at_level(sound, -20))


def speech_alone(take: Take, rng: torch.Generator, *, speech: Tensor) -> Take:
    return take.keeping().plus("vocals", at_level(_as_long(speech, take), -20))


def speech_over_music(take: Take, rng: torch.Generator, *, speech: Tensor) -> Take:
    music = without_vocals(take, rng)
    return music.plus("vocals", at_level(_as_long(speech, take), 3, power(music.mix)))


def without_vocals(take: Take, rng: torch.Generator) -> Take:
    return take.keeping(*(name for name in take.names if name != "vocals"))


def only(name: str) -> Make:
    return lambda take, rng: take.keeping(name)


def _as_long(speech: Tensor, take: Take) -> Tensor:
    """Speech `[T]` over and over, for as long and in as many channels as a mix."""
    length = take.mix.shape[-1]
    return speech.repeat(-(-length // len(speech)))[:length].expand_as(take.mix)


SONG_CASES: Mapping[str, Case] = {
    "as it is": Case(as_it_is, "the sum of the true stems"),
    "mp3": Case(small_mp3, "MP3 at 96 kbit/s; truth: the stems before it"),
    "mono": Case(mono, "both channels' mean, one channel"),
    "old recording": Case(old_recording, "mono, 100 Hz to 5 kHz, wow of 0.3 % at 78 turns a minute; hiss and crackle of"
                                         " equal power, together 30 dB below the music, in other"),
    "live recording": Case(live_recording, "every stem in a hall of 1.8 s, reverberation 3 dB below the direct sound;"
                                           " murmur and claps 20 dB below the music, in other"),
    "telephone": Case(telephone, "8 kHz, mono, 300 to 3400 Hz, mu-law; truth: the stems so limited, before mu-law"),
    "loud master": Case(loud_master, "peak at full scale, then 12 dB more into a soft clipper (tanh), whose gain at"
                                     " each sample all stems get"),
    "quiet transfer": Case(quiet_transfer, "peak at -40 dB, then rounded to 16 bits; truth: the stems before rounding"),
    "a cappella": Case(only("vocals"), "vocals alone", ("vocals",)),
    "instrumental": Case(without_vocals, "all but the vocals"),
    "drums only": Case(only("drums"), "drums alone", ("drums",)),
    "bass only": Case(only("bass"), "bass alone", ("bass",)),
    "other only": Case(only("other"), "other alone", ("other",)),
    "silence": Case(silence, "digital silence"),
    "noise": Case(noise, "white noise of -20 dB, independent channels, as other"),
}


def cases(speech: Mapping[str, Tensor]) -> dict[str, Case]:
    """All cases by name, those with speech for every voice there is: `[T]`, at the songs' rate."""
    spoken: dict[str, Case] = {}
    for voice, said in speech.items():
        spoken[f"speech, {voice}"] = Case(partial(speech_alone, speech=said), "speech alone, as vocals")
        spoken[f"speech over music, {voice}"] = Case(
            partial(speech_over_music, speech=said), "speech, as vocals, 3 dB over the music without its own vocals")
    return dict(SONG_CASES) | spoken
