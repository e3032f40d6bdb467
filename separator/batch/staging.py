"""Songs and stems of remote stores, on this machine's disk for as long as one song takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from separator.errors import SepctlError
from separator.jobs import Job, Song
from separator.remote import Url, near


@contextlib.contextmanager
def staged(song: Song, job: Job) -> Iterator[tuple[Song, Job]]:
    """`song` fetched, and a job that writes to a temporary folder, where they are remote; errors name the URLs."""
    names: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        if isinstance(song.path, Url):
            file = stack.enter_context(near(song.path))
            names[str(file)] = song.name
            song = replace(song, source=file)
        if isinstance(job.out, Url):
            folder = stack.enter_context(TemporaryDirectory(prefix="sepctl-"))
            names[folder] = str(job.out)
            job = replace(job, out=Path(folder))
        try:
            yield song, job
        except SepctlError as error:
            for local, remote in names.items():
                error.fact = error.fact.replace(local, remote)
            raise
