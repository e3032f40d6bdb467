"""The comment that every stem carries: which program, model and options made it, and from which song."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from separator import __version__
from separator.audio import read_tags
from separator.audio.pcmhead import read_pcm_head
from separator.errors import SepctlError

PREFIX = "sepctl "


def stamp(model: str, sha256: str, options: Mapping[str, Any], song: str, song_bytes: int | None,
          song_sha256: str | None) -> str:
    """One line: `sepctl {"version", "model", "sha256", "options": {...}, "song", "bytes", "song_sha256"}`.

    `sha256` is the model file's; what is not known of a song from a stream is null.
    """
    record = {"version": __version__, "model": model, "sha256": sha256, "options": dict(options),
              "song": song.encode("utf-8", "replace").decode(), "bytes": song_bytes,
              "song_sha256": song_sha256}
    return PREFIX + json.dumps(record, ensure_ascii=False)


def with_stamp(tags: Mapping[str, str], line: str) -> dict[str, str]:
    """The song's tags with `line` on top of its comment."""
    comment = tags.get("comment", "")
    return {**tags, "comment": f"{line}\n{comment}" if comment else line}


def read_stamp(path: Path) -> dict[str, Any] | None:
    """What made the stem at `path`, or None where the file is not ours or cannot be read."""
    try:
        with path.open("rb") as file:       # FFmpeg takes its time to open a wav
            head = read_pcm_head(file)
        return (head and parse(head.comment)) or parse(read_tags(path).get("comment", ""))
    except (SepctlError, OSError):
        return None


def parse(comment: str) -> dict[str, Any] | None:
    """The record in the first line of a comment, or None."""
    line = comment.split("\n", 1)[0].strip()
    if not line.startswith(PREFIX):
        return None
    try:
        record = json.loads(line.removeprefix(PREFIX))
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def difference(made: dict[str, Any] | None, wanted: dict[str, Any]) -> str:
    """What tells a stem from the one wanted, for people; empty if song, model and options are the same.

    The version of sepctl may differ.
    """
    if made is None:
        return "nothing in it says what made it"
    if {**made, "version": ""} == {**wanted, "version": ""}:
        return ""
    if made.get("song") != wanted["song"]:
        return f"it is of {made.get('song')}"
    if any(made.get(key) != wanted[key] for key in ("bytes", "song_sha256")):
        return f"it is of another state of {wanted['song']}"
    if made.get("model") != wanted["model"]:
        return f"it was made by {made.get('model')}"
    if made.get("sha256") != wanted["sha256"]:
        return f"it was made by another file of {wanted['model']}"
    before, now = made.get("options"), wanted["options"]
    if not isinstance(before, dict):
        return "it does not say with which options it was made"
    told = [f"{name} {json.dumps(before.get(name))}, not {json.dumps(now.get(name))}"
            for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return f"it has {'; '.join(told) or 'a comment that was changed'}"
