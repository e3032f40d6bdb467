"""Which stems a song has and how many layers play; cards are dealt, so that all kinds come round."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Card = TypeVar("Card")


@dataclass(frozen=True)
class Arrangement:
    """The stems that sound, and numbers of `other` layers to choose from."""

    vocals: bool = True
    drums: bool = True
    bass: bool = True
    layers: tuple[int, ...] = (2, 3, 3, 4)
    written: bool = False  # a MIDI file tells the notes of drums, bass and other


FULL = Arrangement()
DECK = (
    *(FULL,) * 9,
    Arrangement(layers=(1,)),  # a trio with a singer
    Arrangement(drums=False, bass=False, layers=(1, 2)),  # a voice and a piano
    Arrangement(drums=False, layers=(1, 2)),
    Arrangement(layers=(0,)),  # voices over drums and bass
    Arrangement(vocals=False),
    Arrangement(written=True),
    Arrangement(written=True, vocals=False),
)


def deal(deck: Sequence[Card], seed: int, index: int, part: str) -> Card:
    """Card `index` of endlessly many shuffled decks: every deck's worth of songs has each card once.

    >>> sorted(deal("abc", 7, i, "kind") for i in range(3, 6))
    ['a', 'b', 'c']
    """
    rng = np.random.default_rng([seed, index // len(deck), zlib.crc32(part.encode())])
    return deck[int(rng.permutation(len(deck))[index % len(deck)])]
