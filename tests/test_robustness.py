"""The cases are what they are called and their truth is known; of a planted answer, what was planted is measured."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts import cases, robustness
from scripts.cases import SONG_CASES, Take, power
from scripts.robustness import Excerpt, made, mean, measure
from separator.corpus import true_songs

NAMES = ("vocals", "drums", "bass", "other")
RATE = 16000
TRUTH_BEFORE = {"mp3", "telephone", "quiet transfer"}  # not linear: the truth is that before codec or rounding


@pytest.fixture
def take() -> Take:
    """Two seconds of noise, each stem in a band of its own at a level of its own, more to the left."""
    noise = torch.randn(4, 2, 2 * RATE)
    edges = ((300, 2000), (50, 6000), (40, 200), (500, 4000))
    stems = torch.stack([cases.band(each, RATE, *edge) for each, edge in zip(noise, edges, strict=True)])
    stems *= torch.tensor([0.1, 0.2, 0.15, 0.05])[:, None, None] * torch.tensor([1.0, 0.7])[:, None]
    return Take(stems.sum(dim=0), stems, NAMES, RATE)


def answering(estimate):
    """A method that gives, for the mix `[C, T]` and the true stems, what `estimate` makes of them."""

    def method(blocks, rate):
        whole = torch.cat(list(blocks), dim=-1)
        yield estimate(whole[0], whole[1:])

    return method


def band_power(audio: Tensor, rate: int, low: float, high: float) -> float:
    """By a road of its own: the energy of the bins of one transform."""
    spectrum = torch.fft.rfft(audio.double() * torch.hann_window(audio.shape[-1], dtype=torch.float64))
    frequency = torch.fft.rfftfreq(audio.shape[-1], 1 / rate)
    return float(spectrum.abs().square()[..., (frequency >= low) & (frequency < high)].sum())


@pytest.mark.parametrize("name", SONG_CASES)
def test_the_stems_of_every_case_sum_to_its_mix(take: Take, name: str) -> None:
    case = made(name, SONG_CASES[name], take)
    assert case.mix.isfinite().all() and case.stems.isfinite().all()
    assert case.stems.shape == (4, *case.mix.shape)
    error = power(case.mix - case.stems.sum(dim=0))
    if name in TRUTH_BEFORE:
        assert 1e-12 * power(case.mix) < error < 10 ** (-10 / 10) * power(case.mix)
    else:
        assert error <= 1e-12 * power(case.mix)


@pytest.mark.parametrize("name", SONG_CASES)
def test_a_case_is_the_same_every_time_and_leaves_the_song_alone(take: Take, name: str) -> None:
    before = take.stems.clone()
    first = made(name, SONG_CASES[name], take)
    torch.rand(7)  # the global state has no part in it
    second = made(name, SONG_CASES[name], take)
    assert torch.equal(first.mix, second.mix) and torch.equal(first.stems, second.stems)
    assert torch.equal(take.stems, before)


@pytest.mark.parametrize("name", ["mono", "telephone", "old recording"])
def test_mono_cases_have_the_one_channel_between_left_and_right(take: Take, name: str) -> None:
    case = made(name, SONG_CASES[name], take)
    assert case.mix.shape[0] == 1
    if name == "mono":
        torch.testing.assert_close(case.stems[:, 0], (take.stems[:, 0] + take.stems[:, 1]) / 2)


def test_a_telephone_passes_300_to_3400_hz_only() -> None:
    loud = torch.randn(4, 2, 2 * RATE)
    line = made("telephone", SONG_CASES["telephone"], Take(loud.sum(dim=0), loud, NAMES, RATE))
    assert line.sample_rate == 8000 and line.stems.shape[-1] == 2 * 8000
    inside = band_power(line.stems, 8000, 400, 3200) / 2800
    assert band_power(line.stems, 8000, 0, 200) / 200 < 1e-2 * inside
    assert band_power(line.stems, 8000, 3450, 3600) / 150 < 0.5 * inside
    assert band_power(line.stems, 8000, 3800, 4001) / 200 < 0.05 * inside
    assert len(line.mix.unique()) <= 256  # eight bits


def test_mu_law_is_exact_where_the_standard_names_a_value_and_near_elsewhere() -> None:
    steps = torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(cases.mu_law(steps), steps)
    assert cases.mu_law(torch.zeros(1)).abs() < 1e-3
    sine = 0.5 * torch.sin(torch.arange(8000) * 0.3)
    assert 35 < 10 * math.log10(power(sine) / power(sine - cases.mu_law(sine))) < 41  # G.711: about 38 dB


def test_an_old_recording_is_narrow_noisy_and_its_speed_swings(take: Take) -> None:
    quiet = Take(take.mix, take.stems.clone(), NAMES, RATE)
    quiet.stems[3] = 0
    case = made("old recording", SONG_CASES["old recording"], quiet.made_of(quiet.stems))
    hiss_db = 10 * math.log10(power(case.stems[3]) / power(case.stems[:3].sum(dim=0)))
    assert hiss_db == pytest.approx(-30, abs=0.01)
    assert band_power(case.mix, RATE, 7000, 8000) < 0.02 * band_power(case.mix, RATE, 3000, 4000)


def test_wow_swings_the_speed_by_its_depth_once_a_turn() -> None:
    """Against the tone whose phase is the running sum of that speed."""
    time = torch.arange(2 * RATE, dtype=torch.float64) / RATE
    speed = 1 + 0.01 * torch.sin(2 * math.pi * 1.3 * time)
    expected = torch.sin(2 * math.pi * 400 * (speed.cumsum(0) / RATE - 1 / RATE))
    swung = cases.wow(torch.sin(2 * math.pi * 400 * time), RATE, depth=0.01, turns_hz=1.3)
    whole = slice(0, 2 * RATE - 100)  # the last samples lie beyond the tone's end
    assert power(swung[whole] - expected[whole]) < 1e-4 * power(expected[whole])


def test_band_keeps_tones_inside_and_halves_the_power_at_its_edges() -> None:
    time = torch.arange(4 * RATE) / RATE
    middle = slice(RATE, 3 * RATE)
    for hertz, gain in ((1000, 1.0), (300, 0.5), (3400, 0.5), (50, 0.0), (7500, 0.0)):
        tone = torch.sin(2 * math.pi * hertz * time)
        passed = cases.band(tone, RATE, 300, 3400, order=8)
        assert power(passed[middle]) / power(tone[middle]) == pytest.approx(gain, abs=0.01)
        assert power(passed[middle] - gain**0.5 * tone[middle]) < 0.01  # and without delay


def test_convolution_agrees_with_the_sum_it_is() -> None:
    audio, response = torch.randn(3, 2, 50, dtype=torch.float64), torch.randn(2, 9, dtype=torch.float64)
    expected = torch.zeros_like(audio)
    for t in range(50):
        for k in range(min(9, t + 1)):
            expected[..., t] += audio[..., t - k] * response[:, k]
    torch.testing.assert_close(cases.convolved(audio, response), expected)


def test_a_hall_is_its_direct_sound_then_a_tail_that_decays() -> None:
    response = cases.hall(8000, torch.Generator().manual_seed(0), decay_s=1.0, wet_db=-3.0)
    assert response[:, 0].tolist() == [1, 1] and not response[:, 1:160].any()
    tail = response[:, 160:]
    assert tail.square().sum(dim=-1).log10().mul(10).tolist() == pytest.approx([-3, -3], abs=1e-3)
    early, late = tail[:, 800:1600].square().mean(), tail[:, 4800:5600].square().mean()
    assert 10 * math.log10(early / late) == pytest.approx(30, abs=2)  # 60 dB a second, half a second apart


def test_a_loud_master_has_one_gain_for_all_stems(take: Take) -> None:
    case = made("loud master", SONG_CASES["loud master"], take)
    pushed = take.mix * (10 ** (12 / 20) / take.mix.abs().max())
    torch.testing.assert_close(case.mix, torch.tanh(pushed), atol=1e-5, rtol=0)
    share = case.stems / case.mix
    heard = take.mix.abs() > 1e-3
    torch.testing.assert_close(share[:, heard], (take.stems / take.mix)[:, heard], atol=1e-3, rtol=1e-3)
    silent = made("loud master", SONG_CASES["loud master"], take.keeping())
    assert not silent.mix.any() and silent.stems.isfinite().all()


def test_a_quiet_transfer_peaks_at_40_db_below_full_scale_in_whole_16_bit_steps(take: Take) -> None:
    case = made("quiet transfer", SONG_CASES["quiet transfer"], take)
    assert case.mix.abs().max() == pytest.approx(0.01, abs=2**-15)
    assert torch.equal(case.mix * 2**15, (case.mix * 2**15).round())


@pytest.mark.parametrize(("name", "there"), [
    ("a cappella", {"vocals"}), ("instrumental", {"drums", "bass", "other"}), ("drums only", {"drums"}),
    ("bass only", {"bass"}), ("other only", {"other"}), ("silence", set()), ("noise", {"other"}),
])
def test_only_the_stems_of_a_case_sound(take: Take, name: str, there: set[str]) -> None:
    case = made(name, SONG_CASES[name], take)
    assert {stem for stem, audio in zip(NAMES, case.stems, strict=True) if audio.any()} == there
    if name != "noise":
        kept = torch.tensor([stem in there for stem in NAMES])
        assert torch.equal(case.stems[kept], take.stems[kept])


def test_speech_replaces_the_vocals_at_its_level(take: Take) -> None:
    every = cases.cases({"man": torch.randn(RATE // 3)})
    assert set(every) - set(SONG_CASES) == {"speech, man", "speech over music, man"}
    over = made("speech over music, man", every["speech over music, man"], take)
    assert torch.equal(over.stems[1:], take.stems[1:])
    assert 10 * math.log10(power(over.stems[0]) / power(take.stems[1:].sum(dim=0))) == pytest.approx(3, abs=1e-3)
    alone = made("speech, man", every["speech, man"], take)
    assert 10 * math.log10(power(alone.mix)) == pytest.approx(-20, abs=1e-3) and not alone.stems[1:].any()


def test_an_mp3_is_aligned_with_what_it_was_made_of_and_lacks_the_heights() -> None:
    hiss = 0.1 * torch.randn(2, 2 * 44100)
    decoded = cases.mp3(hiss, 44100, 96_000)
    assert decoded.shape == hiss.shape
    together = torch.fft.irfft(torch.fft.rfft(decoded[0]) * torch.fft.rfft(hiss[0]).conj())
    assert int(together.argmax()) == 0
    assert band_power(decoded, 44100, 18000, 22050) < 1e-3 * band_power(hiss, 44100, 18000, 22050)


# What is measured.


def test_a_scaled_mix_leaks_by_its_scale_and_gains_what_its_scale_gains(take: Take) -> None:
    """Oracle: every estimate is a tenth of the mix, so it leaks by -20 dB, and the SDR follows from its definition."""
    instrumental = made("instrumental", SONG_CASES["instrumental"], take)
    found = measure(instrumental, NAMES, answering(lambda mix, stems: (mix / 10).expand_as(stems)))
    assert found.stems["vocals"] == {"leakage_db": pytest.approx(-20, abs=1e-3)}
    for name, true in zip(NAMES[1:], instrumental.stems[1:], strict=True):
        sdr = 10 * math.log10(power(true) / power(true - instrumental.mix / 10))
        floor = 10 * math.log10(power(true) / power(true - instrumental.mix))
        assert found.stems[name] == {"sdr_db": pytest.approx(sdr, abs=1e-3),
                                     "gain_db": pytest.approx(sdr - floor, abs=1e-3)}
    assert found.sum_error == pytest.approx(float(instrumental.mix.abs().max()) * 0.6, rel=1e-4)  # 4 / 10 is there


def test_the_true_stems_are_exact_and_leak_nothing(take: Take) -> None:
    case = made("drums only", SONG_CASES["drums only"], take)
    found = measure(case, NAMES, answering(lambda mix, stems: stems))
    assert found.stems["drums"]["sdr_db"] == math.inf
    assert [found.stems[name] for name in ("vocals", "bass", "other")] == [{"leakage_db": -math.inf}] * 3
    assert found.finite and found.sum_error == 0


def test_values_that_are_no_numbers_are_told(take: Take) -> None:
    def broken(mix: Tensor, stems: Tensor) -> Tensor:
        stems = stems.clone()
        stems[2, 0, 5] = math.nan
        return stems

    assert not measure(take, NAMES, answering(broken)).finite


def test_sound_out_of_silence_is_infinite_leakage() -> None:
    assert robustness.leakage_db(torch.ones(1, 8), torch.zeros(1, 8)) == math.inf
    assert robustness.leakage_db(torch.zeros(1, 8), torch.zeros(1, 8)) == -math.inf


def test_a_stem_41_db_below_the_mix_counts_as_silent_and_one_of_39_db_does_not(take: Take) -> None:
    for decibels, there in ((-41, False), (-39, True)):
        faint = take.stems.clone()
        faint[0] = cases.at_level(faint[0], decibels, power(faint[1:].sum(dim=0)))
        assert robustness.audible(take.made_of(faint), "vocals") is there


def test_means_are_of_decibels_for_sdr_and_of_energies_for_leakage() -> None:
    def result(**row: float) -> robustness.Result:
        return robustness.Result({"bass": row}, True, 1e-7, 10.0, 1.0)

    found = mean([result(sdr_db=2.0, gain_db=4.0), result(sdr_db=6.0, gain_db=5.0), result(leakage_db=-10.0),
                  result(leakage_db=-math.inf)])
    assert found["stems"]["bass"] == {"sdr_db": 4.0, "gain_db": 4.5, "leakage_db": pytest.approx(-13.0103, abs=1e-3)}
    assert found["excerpts"] == 4 and found["x_real_time"] == 10.0


def test_a_table_shows_gains_leaks_and_infinity() -> None:
    rows = {"drums only": {"x_real_time": 99.6, "stems": {
        "vocals": {"leakage_db": -math.inf}, "drums": {"sdr_db": 12.345, "gain_db": -math.inf},
        "bass": {"sdr_db": 1.0, "gain_db": 6.25, "leakage_db": -20.4}}}}
    assert robustness.markdown(rows, ["vocals", "drums", "bass"]).splitlines()[2] == (
        "| drums only | *-∞* | 12.3 | 1.0 (+6.2); *-20* | 100 |")


@pytest.fixture
def songs(tmp_path: Path, write_wav) -> Path:
    """One song of 3 s without `other`, which is silent then; vocals end at 1.5 s, the bass, a tone, starts at 2 s."""
    folder = tmp_path / "songs"
    later = torch.sin(torch.arange(24000) * 0.05).expand(2, -1) * (torch.arange(24000) >= 16000) * 0.2
    sung = 0.1 * torch.randn(2, 24000) * (torch.arange(24000) < 12000)
    for name, audio in (("vocals", sung), ("drums", 0.1 * torch.randn(2, 24000)), ("bass", later)):
        write_wav(folder / "song" / f"{name}.wav", audio)
    return folder


def test_excerpts_are_spread_over_a_song_and_hold_the_sum_of_its_stems(songs: Path) -> None:
    song, = true_songs(songs)
    for asked, parts in (((2, 1.0, None), [(0.25, 1), (1.75, 1)]), ((4, 1.0, None), [(0, 3)]),
                         ((4, 0.5, 1.0), [(1, 0.5)])):
        assert [(each.start_s, each.seconds) for each in robustness.excerpts([song], *asked)] == parts
    take = robustness.read(Excerpt(song, 1.75, 1.0), ("bass", "vocals"))
    assert take.names == ("bass", "vocals", "drums", "other") and take.mix.shape == (2, 8000)
    torch.testing.assert_close(take.mix, take.stems.sum(dim=0))
    assert not take.stems[0, :, :2000].any() and take.stems[0, :, 2000:].any() and not take.stems[3].any()


def test_the_program_writes_every_case(songs: Path, tiny_model: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """Vocals are heard in the first part only, bass in the second, `other` never, and nobody speaks."""
    out = tmp_path / "robustness.json"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["robustness", str(tiny_model), "--songs", str(songs), "--windows", "2",
                                      "--seconds", "1", "--out", str(out), "--markdown"])
    robustness.main()
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report["cases"]) == set(SONG_CASES) - {"other only"}
    assert list(report["skipped"]) == ["speech"]
    counts = {name: report["cases"][name]["excerpts"] for name in ("a cappella", "bass only", "drums only")}
    assert counts == {"a cappella": 1, "bass only": 1, "drums only": 2}
    assert set(report["cases"]["as it is"]["stems"]["bass"]) == {"sdr_db", "gain_db", "leakage_db"}
    assert [set(each["bass"]) for each in report["cases"]["as it is"]["each"]] == [
        {"leakage_db"}, {"sdr_db", "gain_db"}]
    silent = report["cases"]["silence"]["stems"]
    assert all(row == {"leakage_db": None} for row in silent.values())
    assert all(row["finite"] and row["sum_error"] < 1e-5 for row in report["cases"].values())
    assert capsys.readouterr().out.count("\n") == 2 + len(report["cases"])


def test_a_program_on_the_path_is_heard(tmp_path: Path, write_wav, monkeypatch) -> None:
    """A `flite` that speaks of 100 Hz as a man and of 200 Hz as a woman, and takes the text of its last option."""
    for voice, hertz in (("rms", 100), ("slt", 200)):
        tone = 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(8000) / 8000)
        write_wav(tmp_path / f"{voice}.wav", tone[None])
    program = tmp_path / "flite"
    program.write_text(f'#!/bin/sh\n[ "$1$3$5" = "-voice-t-o" ] && /bin/cp "{tmp_path}/$2.wav" "$6"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    said = robustness.spoken()
    cycles = [int((torch.diff((audio > 0).int()) == 1).sum()) for audio, _ in said.values()]
    assert cycles == pytest.approx([100, 200], abs=1)
    assert list(said) == ["man", "woman"] and {rate for _, rate in said.values()} == {8000}
