"""Where a stem goes: the template of output paths, rendered safely for any song name on any system."""

from __future__ import annotations

import os
import re
import string
from pathlib import Path, PurePosixPath, PureWindowsPath

from separator.errors import UsageError

PLACEHOLDERS = ("track", "stem", "ext", "model", "folder", "source_ext")
MAX_BYTES = 180  # of one name in UTF-8: file systems allow 255, and temporary names need some of it
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,5}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def track_name(song: Path) -> str:
    """The song's name without its extension; `a.stem.mp4` is `a`, and `Mr. Brightside` stays whole.

    >>> track_name(Path("music/01. Intro.flac"))
    '01. Intro'
    """
    name = song.name
    if _EXTENSION.fullmatch(song.suffix):
        name = name.removesuffix(song.suffix)
        name = name.removesuffix(".stem") or name
    return name


def safe_name(name: str) -> str:
    """`name` as one file or folder name that every common file system takes, never empty and never a path.

    >>> safe_name('AC/DC: "Live"?. ')
    'AC_DC_ _Live__'
    """
    name = _UNSAFE.sub("_", name)
    name = os.fsencode(name)[:MAX_BYTES].decode("utf-8", "ignore") if len(os.fsencode(name)) > MAX_BYTES else name
    name = name.rstrip(" .").lstrip(" ") or "_"
    return f"_{name}" if _RESERVED.fullmatch(name) else name


def check_template(template: str) -> None:
    """Raise `UsageError` unless `template` is a relative path inside the output folder with known placeholders."""
    try:
        fields = [(field, spec, conversion) for _, field, spec, conversion in string.Formatter().parse(template)]
    except ValueError as error:
        raise UsageError(f"--template {template!r}: {error}", hint='e.g. "{track}/{stem}.{ext}"') from error
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    for field, spec, conversion in fields:
        if field is not None and (field not in PLACEHOLDERS or spec or conversion):
            raise UsageError(f"--template {template!r}: unknown placeholder {{{field}}}", hint=f"known are {known}")
    for kind in (PurePosixPath(template), PureWindowsPath(template)):
        if kind.is_absolute() or kind.drive or kind.root or ".." in kind.parts:
            raise UsageError(f"--template {template!r} leads out of the output folder", hint="choose it with --out")


def render(template: str, out: Path, **values: str) -> Path:
    """`out` joined with `template`, whose placeholders get safe versions of `values`."""
    return out / template.format(**{name: safe_name(value) for name, value in values.items()})
