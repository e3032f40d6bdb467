"""The audio edge: whatever FFmpeg reads comes in as blocks, and one file per stem goes out, complete or not at all.

A package, because the edge has several duties, one module each:

- `reader`    songs to blocks; refuses what would look like success and is not (`promise`, `pcmhead`, `source`)
- `writer`    blocks to one file (`place`: temporary name; `sink`: disk errors; `pcm`: rounding; `encoder`, `vorbis`)
- `tags`      what a file says about itself: tags, cover art, `probe`
- `formats`   the values handed over: `StemFormat`, `AudioInfo`, `Cover`

FFmpeg comes inside PyAV's wheels, so no program has to be installed. Those wheels have no Vorbis encoder worth
using, so Ogg Vorbis alone is encoded by libsndfile.
"""

from __future__ import annotations

from separator.audio.formats import AudioInfo, Cover, StemFormat
from separator.audio.reader import AudioReader, EndedBefore
from separator.audio.tags import probe, read_tags
from separator.audio.writer import StemWriter

__all__ = ["AudioInfo", "AudioReader", "Cover", "EndedBefore", "StemFormat", "StemWriter", "probe", "read_tags"]
