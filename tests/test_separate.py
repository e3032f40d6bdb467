"""Oracles: identity masks give the mix back, stems sum to the mix, and the same road walked in other ways.

The models are tiny: what is under test is what happens around the network.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import separator as package
from separator import modelfile
from separator.card import ModelCard, UmxSpec
from separator.dsp.ahead import ahead
from separator.dsp.segments import Segment
from separator.errors import AudioError, ModelError, ResourceError, UsageError
from separator.models import build
from separator.separate import Separator

STEMS = ("vocals", "drums", "bass", "other")
RATE = 8000


def card(**changes: Any) -> ModelCard:
    """Segments of 0.5 s at 8 kHz, of which 0.05 s of context at each end: 50 frames are kept, and 6 on either side."""
    numbers: dict[str, Any] = {"sample_rate": RATE, "n_fft": 256, "hop": 64, "segment_s": 0.5, "context_s": 0.05,
                               "residual": "other"}
    return ModelCard(**{"name": "tiny", "stems": STEMS, "spec": UmxSpec(), **numbers, **changes})


class Shares(nn.Module):
    """Every stem is its fixed share of the mix."""

    def __init__(self, *shares: float) -> None:
        super().__init__()
        self.shares = dict(zip(STEMS, shares, strict=False))
        self.calls: list[tuple[int, ...]] = []
        self.asked: list[tuple[str, ...]] = []

    def forward(self, mix: Tensor, stems: Sequence[str]) -> Tensor:
        self.calls.append(tuple(mix.shape))
        self.asked.append(tuple(stems))
        shares = torch.tensor([self.shares[stem] for stem in stems]).view(1, -1, 1, 1, 1)
        return shares.expand(mix.shape[0], -1, *mix.shape[1:])


class Peaks(nn.Module):
    """Masks that depend on one bin of one frame alone."""

    def forward(self, mix: Tensor, stems: Sequence[str]) -> Tensor:
        level = mix.abs()
        return torch.stack([(level > 3 * (k + 1)).float() + 0.1 for k in range(len(stems))], dim=1)


class Blstm(nn.Module):
    """A random recurrent network: its masks depend on all that it hears, and differ between channels."""

    def __init__(self, bins: int = 129, channels: int = 2) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels * bins, 8, bidirectional=True, batch_first=True)
        self.out = nn.Linear(16, len(STEMS) * channels * bins)

    def forward(self, mix: Tensor, stems: Sequence[str]) -> Tensor:
        batch, channels, bins, frames = mix.shape
        hidden, _ = self.lstm(mix.abs().permute(0, 3, 1, 2).flatten(2))
        masks = (self.out(hidden) + 0.3).relu().view(batch, frames, len(STEMS), channels, bins)
        return masks.permute(0, 2, 3, 4, 1)[:, [STEMS.index(stem) for stem in stems]]


def run(separator: Separator, x: Tensor, sample_rate: int = RATE, block: int = 1000) -> Tensor:
    """Stems `[S, C, T]`."""
    empty = torch.empty(len(separator.stems), x.shape[0], 0)
    return torch.cat([empty, *separator.stream(x.split(block, dim=-1), sample_rate)], dim=-1)


def lengths() -> list[int]:
    """Around nothing, the window, one segment, two, and many."""
    separator = Separator(card(), Shares(1, 1, 1, 1))
    assert (separator.kept, separator.context) == (50, 6)
    one = (50 + 6) * 64                                     # from here on there is a second one
    return [1, 2, 127, 128, 129, 255, 256, 257, *(n + edge for n in (one, one + 50 * 64) for edge in EDGES), 20000]


EDGES = (-193, -192, -129, -128, -127, -65, -64, -63, -1, 0, 1, 63, 64, 65, 127, 128, 129)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("length", lengths())
def test_equal_shares_give_the_mix_back(length: int, channels: int) -> None:
    x = torch.randn(channels, length)
    y = run(Separator(card(), Shares(*[0.25] * 4), exact_sum=False), x)
    torch.testing.assert_close(y, (x / 4).expand(4, -1, -1), rtol=0, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000, 6000, 44100])
@pytest.mark.parametrize("length", [1, 2, 4000, 9999])
@pytest.mark.parametrize("exact_sum", [True, False])
def test_stems_have_the_songs_length_and_sum_to_it(
    channels: int, sample_rate: int, length: int, exact_sum: bool
) -> None:
    x = torch.randn(channels, length)
    y = run(Separator(card(), Blstm(), exact_sum=exact_sum), x, sample_rate)
    assert y.shape == (4, channels, length)
    if exact_sum:
        torch.testing.assert_close(y.sum(0), x, rtol=0, atol=2e-6)
    elif length > 2:
        assert (y.sum(0) - x).abs().max() > 0.1


@pytest.mark.parametrize("sample_rate", [44100, 48000, 96000, 8000])
@pytest.mark.parametrize("channels", [1, 2])
def test_stems_sum_to_the_song_at_the_rates_of_music(sample_rate: int, channels: int) -> None:
    full = card(sample_rate=44100, n_fft=1024, hop=256)
    x = torch.rand(channels, sample_rate) * 2 - 1
    y = run(Separator(full, Blstm(bins=513)), x, sample_rate)
    assert y.shape == (4, channels, sample_rate)
    torch.testing.assert_close(y.sum(0), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sample_rate", [8000, 11025])
@pytest.mark.parametrize("wiener", [0, 1])
def test_no_bit_depends_on_the_blocks(sample_rate: int, wiener: int) -> None:
    separator = Separator(card(), Blstm(), wiener=wiener, batch=3)
    x = torch.randn(2, 30_000)
    expected = run(separator, x, sample_rate, block=30_000)
    for block in (7, 1000, 4096):
        assert torch.equal(run(separator, x, sample_rate, block), expected)


def test_batches_are_of_equal_segments_in_a_fixed_order() -> None:
    for block in (10, 100_000):
        network = Shares(1, 1, 1, 1)
        separator = Separator(card(), network, batch=5)
        run(separator, torch.randn(2, (13 * 50 + 6 + 20) * 64), block=block)      # 677 frames, 50 for each segment
        assert [call[0] for call in network.calls] == [2, 4, 5, 2, 1]           # the first ones come soon
        assert [call[-1] for call in network.calls] == [62] * 4 + [677 - 13 * 50 + 6]


@pytest.mark.parametrize("stems", [STEMS, STEMS[:2]])
def test_what_is_heard_around_a_segment_is_only_heard(stems: Sequence[str]) -> None:
    """The contexts are neither masked nor transformed back: of the frames kept no sample can tell."""
    separator = Separator(card(), Blstm(), stems=stems)
    mix = torch.randn(2, 61 * 64 + 256)                                         # 62 frames
    (whole,) = separator._forward([(mix, slice(0, 62))])
    (part,) = separator._forward([(mix, slice(20, 40))])
    assert part.shape == (len(stems), 2, 19 * 64 + 256)
    alone = slice(3 * 64, 20 * 64)                                              # no frame but those kept is here
    torch.testing.assert_close(part[..., alone], whole[..., 20 * 64 :][..., alone], rtol=0, atol=1e-5)


def test_the_filter_has_the_same_windows_wherever_segments_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a context to hear differently, segments of one, two and all windows give the song the same stems."""
    monkeypatch.setattr("separator.separate.WINDOW", 20)
    x = torch.randn(2, 30_000) * torch.linspace(0.1, 1, 30_000)
    network = Peaks()
    stems = [run(Separator(card(segment_s=s, context_s=0.02), network, wiener=1), x) for s in (0.2, 0.4, 9)]
    torch.testing.assert_close(stems[0], stems[2], rtol=0, atol=1e-5)
    torch.testing.assert_close(stems[1], stems[2], rtol=0, atol=1e-5)
    monkeypatch.setattr("separator.separate.WINDOW", 33)
    assert (run(Separator(card(segment_s=9), network, wiener=1), x) - stems[2]).abs().max() > 1e-3


def test_batches_change_nothing_but_rounding() -> None:
    network = Blstm()
    x = torch.randn(2, 30_000)
    one, four = (run(Separator(card(), network, batch=n), x) for n in (1, 4))
    torch.testing.assert_close(one, four, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wiener", [0, 1])
def test_segments_share_the_frames_of_the_whole_song(wiener: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mask per frame and bin there is no context: segments, then, must agree with the whole song."""
    monkeypatch.setattr("separator.separate.WINDOW", 25)                        # two of them in a segment
    x = torch.randn(2, 30_000)
    y = run(Separator(card(), Peaks(), wiener=wiener, exact_sum=False), x)
    whole = Separator(card(), Peaks(), wiener=wiener, exact_sum=False).forward(x[None])[0]
    assert (y - x).abs().max() > 0.1
    torch.testing.assert_close(y, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sample_rate", [8000, 11025])
@pytest.mark.parametrize("wiener", [0, 2])
@pytest.mark.parametrize("rest", [None, "no_vocals"])
def test_silence_in_silence_out(sample_rate: int, wiener: int, rest: str | None) -> None:
    stems = None if rest is None else ["vocals"]
    assert not run(Separator(card(), Blstm(), stems=stems, rest=rest, wiener=wiener), torch.zeros(2, 9000),
                   sample_rate).any()


@pytest.mark.parametrize("gain", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("mono", [True, False])
@pytest.mark.parametrize("wiener", [0, 1, 3])
def test_any_level_is_finite_and_sums(gain: float, mono: bool, wiener: int) -> None:
    x = gain * torch.randn(2, 9000)
    if mono:
        x = x[:1].expand(2, -1)
    y = run(Separator(card(), Blstm(), wiener=wiener), x)
    assert y.isfinite().all()
    torch.testing.assert_close(y.sum(0), x, rtol=0, atol=3e-6 * gain)


def test_mono_is_the_average_of_both_channels() -> None:
    network = Blstm()
    x = torch.randn(1, 9000)
    separator = Separator(card(), network, exact_sum=False)
    expected = run(separator, x.expand(2, -1)).mean(1, keepdim=True)
    torch.testing.assert_close(run(separator, x), expected, rtol=0, atol=1e-6)


def test_only_the_stems_asked_for_are_computed_and_in_that_order() -> None:
    network = Shares(0.4, 0.3, 0.2, 0.1)
    x = torch.randn(2, 5000)
    y = run(Separator(card(), network, stems=["bass", "vocals"]), x)
    assert set(network.asked) == {("bass", "vocals")}
    torch.testing.assert_close(y, torch.stack([0.2 * x, 0.4 * x]), rtol=0, atol=2e-6)


def test_the_wiener_filter_of_some_stems_takes_the_others_as_what_is_left() -> None:
    """Second road: a model whose last stem is exactly what the first two leave."""
    x = torch.randn(2, 3 * RATE)
    network = Shares(0.5, 0.3)
    two = run(Separator(card(), network, wiener=1, stems=["drums", "vocals"]), x)
    assert set(network.asked) == {("drums", "vocals")}                       # the time of the others is saved
    three = Separator(card().model_copy(update={"stems": STEMS[:3], "residual": None}), Shares(0.5, 0.3, 0.2), wiener=1,
                      exact_sum=False)
    torch.testing.assert_close(two, run(three, x)[[1, 0]], rtol=0, atol=1e-6)


def test_the_wiener_filter_of_a_lone_stem_is_told_the_rest() -> None:
    """Without it the filter would give the whole mix to the only stem that it knows."""
    lone = ModelCard(**{**card().model_dump(), "stems": ("vocals",), "residual": None})
    x = torch.randn(2, 9000)
    y = run(Separator(lone, Shares(0.5), wiener=1), x)
    torch.testing.assert_close(y[0], x / 2, rtol=0, atol=1e-3)


def test_a_lone_stem_is_not_made_to_sum_to_the_mix() -> None:
    lone = ModelCard(**{**card().model_dump(), "stems": ("vocals",), "residual": None})
    x = torch.randn(2, 9000)
    torch.testing.assert_close(run(Separator(lone, Shares(0.5)), x)[0], x / 2, rtol=0, atol=2e-6)


def test_the_card_says_whether_to_filter() -> None:
    assert Separator(card(wiener=2), Blstm()).wiener == 2
    assert Separator(card(wiener=2), Blstm(), wiener=0).wiener == 0


@pytest.mark.parametrize("sample_rate", [8000, 11025])
def test_the_rest_is_the_mix_minus_the_stems(sample_rate: int) -> None:
    x = torch.randn(2, 9000)
    network = Blstm()
    separator = Separator(card(), network, stems=["vocals"], rest="no_vocals")
    assert separator.stems == ("vocals", "no_vocals")
    y = run(separator, x, sample_rate)
    assert torch.equal(y[0], run(Separator(card(), network, stems=["vocals"]), x, sample_rate)[0])
    assert torch.equal(y[1], x - y[0])


@pytest.mark.parametrize(("residual", "heir"), [("drums", 1), (None, 3)])
def test_sound_above_the_models_range_goes_to_the_residual_stem(residual: str | None, heir: int) -> None:
    time = torch.arange(32_000, dtype=torch.float64) / 32_000
    high = torch.sin(2 * torch.pi * 7000 * time).float()[None].expand(2, -1)
    y = run(Separator(card(residual=residual), Shares(*[0.25] * 4)), high, 32_000)
    inner = slice(2000, -2000)                              # the ends click: sharp edges have low frequencies
    torch.testing.assert_close(y[heir, :, inner], high[:, inner], rtol=0, atol=1e-5)
    for k in {0, 1, 2, 3} - {heir}:
        assert y[k, :, inner].abs().max() < 1e-5


def test_the_song_is_not_held() -> None:
    """Blocks are forgotten as their stems leave: those alive must not grow with the song."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def blocks(count: int) -> Iterator[Tensor]:
        for _ in range(count):
            block = torch.randn(2, 1000)
            alive.add(block)
            yield block

    def most(count: int, sample_rate: int) -> int:
        separator = Separator(card(), Shares(*[0.25] * 4), batch=2)
        return max(len(alive) for _ in separator.stream(blocks(count), sample_rate))

    for sample_rate in (8000, 11025):
        assert most(200, sample_rate) <= most(50, sample_rate) <= 20


def test_out_of_memory_halves_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    class Hungry(Shares):
        def __init__(self, *shares: float, most: int = 1) -> None:
            super().__init__(*shares)
            self.most = most
            self.roomy: float = float("inf")                # calls, before there is memory for one segment only

        def forward(self, mix: Tensor, stems: Sequence[str]) -> Tensor:
            if len(mix) > (self.most if len(self.calls) < self.roomy else 1):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(mix, stems)

    x = torch.randn(2, 30_000)
    separator = Separator(card(), Hungry(*[0.25] * 4), batch=5)
    assert torch.equal(run(separator, x), run(Separator(card(), Shares(*[0.25] * 4), batch=1), x))
    assert [record.args for record in caplog.records] == [(torch.device("cpu"), 1)]
    caplog.clear()
    separator = Separator(card(), Hungry(*[0.25] * 4, most=2), batch=8)
    run(separator, torch.randn(2, 80_000))
    assert [record.args for record in caplog.records] == [(torch.device("cpu"), 2)]
    assert separator.batch == 2
    caplog.clear()
    separator, x = Separator(card(), hungry := Hungry(*[0.25] * 4, most=8), batch=8), torch.randn(2, 80_000)
    expected = run(separator, x)
    hungry.calls.clear()
    hungry.roomy = 2                                    # then another program takes the memory: eight, four, two, one
    torch.testing.assert_close(run(separator, x), expected, rtol=0, atol=1e-6)
    assert separator.batch == 1


def test_out_of_memory_on_a_card_goes_on_with_the_processor(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The card is played by a separator that says it is on one, and fails there with each third group."""
    network, x = Blstm(), torch.randn(2, 30_000)
    expected = run(Separator(card(), network, precision="fp32", batch=1), x)
    separator = Separator(card(), network, precision="fp32", batch=4)
    monkeypatch.setattr("separator.separate.resolve", lambda *_: "fp32")
    separator.device, separator._network = torch.device("cuda:0"), network
    groups: list[int] = []
    forward = Separator._forward

    def small_card(self: Separator, group: Sequence[Segment]) -> Iterator[Tensor]:
        if self.device.type == "cuda":
            groups.append(len(group))
            if len(groups) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, group)

    monkeypatch.setattr(Separator, "_forward", small_card)
    monkeypatch.setattr(Separator, "_send", lambda self, mix: mix)
    torch.testing.assert_close(run(separator, x), expected, rtol=0, atol=1e-5)
    assert groups == [2, 4, 3, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory on cuda:0: going on with 1 segments at once",
        "out of memory on cuda:0: going on with the processor, which is slower",
    ]
    assert separator.device.type == "cpu" and separator._network is None


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")])
def test_out_of_memory_for_one_segment_is_told(error: Exception) -> None:
    class Starved(Shares):
        def forward(self, mix: Tensor, stems: Sequence[str]) -> Tensor:
            raise error

    with pytest.raises(ResourceError, match="segment of 0 s does not fit"):
        run(Separator(card(), Starved(1, 1, 1, 1)), torch.randn(2, 3000))


def test_other_errors_of_the_network_are_bugs() -> None:
    class Broken(Shares):
        def forward(self, mix: Tensor, stems: Sequence[str]) -> Tensor:
            raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        run(Separator(card(), Broken(1, 1, 1, 1)), torch.randn(2, 3000))


def test_a_network_that_diverged_is_told() -> None:
    with pytest.raises(ModelError, match="tiny answered with values that are not finite"):
        run(Separator(card(), Shares(1, 1, float("nan"), 1)), torch.randn(2, 3000))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_sample_that_is_no_number_is_named(value: float) -> None:
    x = torch.randn(2, 3000)
    x[1, 1234] = value
    x[0, 2000] = value
    with pytest.raises(AudioError, match="sample 1234 "):
        run(Separator(card(), Shares(1, 1, 1, 1)), x, block=100)


def test_too_many_channels_are_refused() -> None:
    with pytest.raises(AudioError, match="6 channels") as caught:
        run(Separator(card(), Shares(1, 1, 1, 1)), torch.randn(6, 5000))
    assert "--downmix" in caught.value.hint


def test_a_mono_model_refuses_stereo() -> None:
    separator = Separator(card(channels=1), Shares(*[0.25] * 4))
    torch.testing.assert_close(run(separator, torch.ones(1, 5000)).sum(0), torch.ones(1, 5000))
    with pytest.raises(AudioError, match="2 channels"):
        run(separator, torch.randn(2, 5000))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stems": ["vocal"]}, "no stem 'vocal'.*vocals, drums, bass, other"),
        ({"stems": []}, "at least one"),
        ({"stems": ["bass", "bass"]}, "each stem once"),
        ({"stems": ["bass"], "rest": "vocals"}, "cannot be called 'vocals'"),
        ({"wiener": -1}, "wiener"),
        ({"batch": 0}, "batch"),
        ({"device": "auto"}, "device 'auto' cannot be used.*pass 'cpu'"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used.*pass 'cpu'"),
        ({"device": "meta"}, "device 'meta' cannot be used"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}"):
        Separator(card(), Shares(1, 1, 1, 1), **options)


def test_blocks_of_other_shapes_are_refused() -> None:
    separator = Separator(card(), Shares(1, 1, 1, 1))
    for blocks in ([torch.zeros(5)], [torch.zeros(2, 5), torch.zeros(1, 5)]):
        with pytest.raises(UsageError, match="blocks must be"):
            list(separator.stream(blocks, RATE))
    with pytest.raises(UsageError, match="rate"):
        list(separator.stream([torch.zeros(2, 5)], 0))


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((2, 5), dtype=np.float32), "not numpy.ndarray.*float32 torch tensors.*from_numpy"),
        ([[0.0, 0.0]], "not builtins.list"),
        (torch.zeros(2, 5, dtype=torch.int16), "not int16.*float32.*divide"),
        (torch.zeros(2, 5, dtype=torch.complex64), "not complex64"),
        (torch.zeros(1000, 2), r"shape .channels, samples., not .1000, 2.*pass audio.T"),
        (torch.zeros(9, 9), "shape"),
        (torch.zeros(0, 9), "shape"),
        (torch.zeros(1, 2, 9), "shape"),
    ],
)
def test_what_is_no_audio_is_refused_with_what_to_pass(audio: Any, message: str) -> None:
    separator = Separator(card(), Shares(1, 1, 1, 1))
    with pytest.raises(UsageError, match=f"(?s){message}") as caught:
        separator.separate(audio, RATE)
    assert "--downmix" not in str(caught.value)
    with pytest.raises(UsageError, match=f"(?s){message}"):
        list(separator.stream([audio], RATE))


@pytest.mark.parametrize("sample_rate", [8000.0, "8000", None, True])
def test_a_sample_rate_that_is_no_integer_is_refused(sample_rate: Any) -> None:
    separator = Separator(card(), Shares(1, 1, 1, 1))
    with pytest.raises(UsageError, match="must be an int, in Hz"):
        separator.separate(torch.zeros(2, 5), sample_rate)
    with pytest.raises(UsageError, match="must be an int, in Hz"):
        list(separator.stream([torch.zeros(2, 5)], sample_rate))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("sample_rate", [8000, 11025])
def test_other_precisions_are_converted(dtype: torch.dtype, sample_rate: int) -> None:
    separator = Separator(card(), Blstm())
    x = torch.randn(2, 5000, dtype=dtype)
    y = run(separator, x, sample_rate)
    assert y.dtype == torch.float32
    assert torch.equal(y, run(separator, x.float(), sample_rate))
    assert torch.equal(separator.separate(x, sample_rate)["bass"], y[2])


@pytest.mark.parametrize("sample_rate", [8000, 11025])
def test_one_buffer_may_be_filled_again_and_again(sample_rate: int) -> None:
    separator = Separator(card(), Blstm())
    x = torch.randn(2, 9000)

    def blocks() -> Iterator[Tensor]:
        buffer = torch.empty(2, 1000)
        for block in x.split(1000, dim=-1):
            yield buffer.copy_(block)

    y = torch.cat(list(separator.stream(blocks(), sample_rate)), dim=-1)
    assert torch.equal(y, run(separator, x, sample_rate))


@pytest.mark.parametrize("sample_rate", [8000, 11025])
def test_stems_that_are_not_the_whole_mix_are_not_made_to_sum_to_it(sample_rate: int) -> None:
    x = torch.randn(2, 9000)
    some = Separator(card(stems=STEMS[:2], residual=None, complete=False), Shares(0.5, 0.2))
    y = run(some, x, sample_rate)
    assert torch.equal(y, run(Separator(some.card, Shares(0.5, 0.2), exact_sum=False), x, sample_rate))
    heard = run(Separator(card(), Shares(1, 0, 0, 0), stems=["vocals"]), x, sample_rate)   # without too high tones
    torch.testing.assert_close(y, torch.cat([0.5 * heard, 0.2 * heard]), rtol=0, atol=5e-6)


def test_the_wiener_filter_of_an_incomplete_model_is_told_what_is_left() -> None:
    """Second road: a complete model whose last stem is exactly what the first two leave."""
    x = torch.randn(2, 3 * RATE)
    two = Separator(card(stems=STEMS[:2], residual=None, complete=False), Shares(0.5, 0.3), wiener=1)
    three = Separator(card(stems=STEMS[:3], residual=None), Shares(0.5, 0.3, 0.2), wiener=1, exact_sum=False)
    torch.testing.assert_close(run(two, x), run(three, x)[:2], rtol=0, atol=1e-6)


def test_a_song_in_memory_goes_through_the_same_stream() -> None:
    separator = Separator(card(), Blstm(), stems=["bass", "vocals"], rest="no")
    x = torch.randn(2, 9000)
    before = x.clone()
    stems = separator.separate(x, 11025)
    assert list(stems) == ["bass", "vocals", "no"]
    assert torch.equal(torch.stack(list(stems.values())), run(separator, x, 11025))
    assert torch.equal(x, before)
    stems["bass"] *= 2                                      # the caller's own, ordinary tensors
    stems["bass"].requires_grad_()
    assert {name: y.shape for name, y in separator.separate(x[:, :0], RATE).items()} == dict.fromkeys(
        ("bass", "vocals", "no"), (2, 0)
    )
    with pytest.raises(UsageError, match="shape"):
        separator.separate(x[0], RATE)


def test_forward_is_what_stream_does_to_one_segment() -> None:
    separator = Separator(card(), Blstm())
    x = torch.randn(3, 2, 3000)
    y = separator.forward(x)
    assert y.shape == (3, 4, 2, 3000)
    for stems, mix in zip(y, x, strict=True):
        torch.testing.assert_close(stems, run(separator, mix), rtol=0, atol=2e-6)


def test_the_network_is_put_into_evaluation_mode() -> None:
    network = build(card(spec=UmxSpec(hidden=8, layers=2, kept_bins=99))).train()      # with dropout
    separator = Separator(card(), network)
    x = torch.randn(2, 3000)
    assert torch.equal(run(separator, x), run(separator, x))
    assert not network.training


def test_runs_in_a_background_thread() -> None:
    separator = Separator(card(), Blstm())
    x = torch.randn(2, 30_000)
    stream = ahead(separator.stream(ahead(x.split(1000, dim=-1)), RATE))
    assert torch.equal(torch.cat(list(stream), dim=-1), run(separator, x))


def test_loads_a_model_file(tmp_path: Path) -> None:
    described = card(spec=UmxSpec(hidden=8, layers=1, kept_bins=99))
    network = build(described)
    modelfile.save(tmp_path / "tiny.safetensors", described, network)
    loaded = package.Separator.load(tmp_path / "tiny.safetensors", stems=["bass"], batch=2)
    assert (loaded.card, loaded.stems, loaded.batch) == (described, ("bass",), 2)
    x = torch.randn(2, 9000)
    assert torch.equal(run(loaded, x), run(Separator(described, network, stems=["bass"]), x))


def test_a_loaded_separator_on_the_processor_keeps_freed_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("separator.separate.keep_freed_memory", lambda: asked.append(1))
    described = card(spec=UmxSpec(hidden=8, layers=1, kept_bins=99))
    modelfile.save(tmp_path / "tiny.safetensors", described, build(described))
    Separator(described, build(described))                  # of a network of one's own: the process is not ours
    assert not asked
    Separator.load(tmp_path / "tiny.safetensors")
    assert asked


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        Separator.load(tmp_path / "none.safetensors")
