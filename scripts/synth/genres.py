"""What each style of music draws from."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
}
TURNS = {  # degrees of the scale, four chords
    "major": ("0453", "5304", "0534", "3405", "0304", "0234", "1400", "0034"),
    "minor": ("0526", "0354", "0656", "0534", "0030", "5600", "0263", "3040"),
    "metal": ("0010", "0560", "0021", "0651", "0005"),
}


class Genre(BaseModel):
    """Choices of a style, as genres.yaml explains them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bpm: tuple[float, float]
    scales: str
    drums: str
    basses: str
    figures: str
    others: str
    vocals: str = "sung sung sung rap"
    sevenths: float = 0.2
    swing: float = 0.1
    acoustic: float = 0.5
    loud: float = 0.0


GENRES = TypeAdapter(dict[str, Genre]).validate_python(
    yaml.safe_load(Path(__file__).with_name("genres.yaml").read_text(encoding="utf-8"))
)
