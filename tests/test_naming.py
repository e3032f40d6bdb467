"""Output paths: safe for any song name, and never outside the output folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from separator.errors import UsageError
from separator.naming import MAX_BYTES, check_template, render, safe_name, track_name


@pytest.mark.parametrize(("file", "track"), [
    ("song.wav", "song"), ("01. Intro.flac", "01. Intro"), ("Artist - Title.stem.mp4", "Artist - Title"),
    ("Mr. Brightside", "Mr. Brightside"), ("no_extension", "no_extension"), (".wav", ".wav"), ("a.b.c.mp3", "a.b.c"),
    ("夜に駆ける.m4a", "夜に駆ける"), (".stem.mp4", ".stem"), ("stdin", "stdin"), ("R.E.M.mp3", "R.E.M"),
])
def test_track_is_the_name_without_its_extension(file: str, track: str) -> None:
    assert track_name(Path("folder.d") / file) == track


@pytest.mark.parametrize(("name", "safe"), [
    ("AC/DC", "AC_DC"), ("a\\b", "a_b"), ("..", "_"), (".", "_"), ("", "_"), ("   ", "_"), ("trailing. . ", "trailing"),
    ("What?", "What_"), ("con", "_con"), ("NUL.txt", "_NUL.txt"), ("console", "console"), ("tab\tline\n", "tab_line_"),
    ("Ünïcode 夜", "Ünïcode 夜"), (".hidden", ".hidden"),
])
def test_safe_name(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.mark.parametrize("name", ["x" * 300, "夜" * 100, "é" * 91])
def test_long_names_are_cut_at_a_whole_character(name: str) -> None:
    cut = safe_name(name)
    assert name.startswith(cut)
    assert MAX_BYTES - 3 < len(cut.encode()) <= MAX_BYTES


@pytest.mark.parametrize("template", [
    "../{stem}.wav", "{track}/../../{stem}.wav", "/tmp/{stem}.wav", "C:/{stem}.wav", "C:{stem}.wav", "\\{stem}.wav",
    "a/..", "..\\{stem}.wav", "//host/share/{stem}.wav",
])
def test_a_template_never_leads_out(template: str) -> None:
    with pytest.raises(UsageError, match="leads out of the output folder"):
        check_template(template)


@pytest.mark.parametrize("template", ["{trak}/{stem}.{ext}", "{stem!r}.wav", "{stem:>9}.wav", "{stem.__class__}", "{}"])
def test_only_plain_known_placeholders(template: str) -> None:
    with pytest.raises(UsageError, match="unknown placeholder.*\n.*{track}, {stem}, {ext}"):
        check_template(template)


def test_an_unclosed_brace_is_the_users_mistake() -> None:
    with pytest.raises(UsageError, match="expected '}'"):
        check_template("{track")


@pytest.mark.parametrize("track", ["..", "../../etc", "/etc/passwd", "a/../..", "C:\\x", "."])
def test_no_song_name_leads_out(track: str, tmp_path: Path) -> None:
    path = render("{track}/{stem}.{ext}", tmp_path / "out", track=track, stem="../v", ext="wav")
    assert path.parent.parent == tmp_path / "out"
    assert path.resolve().is_relative_to((tmp_path / "out").resolve())


def test_render_fills_every_placeholder(tmp_path: Path) -> None:
    template = "{model}/{folder}/{{x}} {track}-{stem}.{ext}"
    check_template(template)
    path = render(template, tmp_path, model="mini", folder="LP", track="t", stem="s", ext="mp3")
    assert path == tmp_path / "mini" / "LP" / "{x} t-s.mp3"
