"""What each style of music draws from."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Genre:
    """Choices of a style; what is named twice comes twice as often."""

    weight: float
    bpm: tuple[float, float]
    scales: str
    drums: str  # groove styles (beginnings of the data set's names) or @patterns
    basses: str
    figures: str
    others: str
    vocals: str = "sung sung sung rap"
    sevenths: float = 0.2
    swing: float = 0.1
    acoustic: float = 0.5  # chance of an acoustic drum kit


GENRES: dict[str, Genre] = {
    "pop": Genre(
        weight=2.0,
        bpm=(84, 132),
        scales="major major minor",
        drums="pop rock soul @four @pop @half",
        basses="electric electric synth sub",
        figures="pop pop rock",
        others="piano strum pad pluck epiano arp strings clean orchestral solo",
        acoustic=0.45,
    ),
    "rock": Genre(
        weight=1.6,
        bpm=(95, 170),
        scales="major minor mixolydian",
        drums="rock rock punk @rock",
        basses="electric",
        figures="rock",
        others="power power lead_guitar strum organ clean piano",
        acoustic=0.85,
    ),
    "funk": Genre(
        weight=1.0,
        bpm=(88, 122),
        scales="dorian mixolydian",
        drums="funk funk neworleans soul @funk",
        basses="electric electric slap synth",
        figures="funk",
        others="skank skank epiano organ brass clean pluck",
        sevenths=0.9,
        swing=0.3,
        acoustic=0.75,
    ),
    "hiphop": Genre(
        weight=1.3,
        bpm=(68, 100),
        scales="minor dorian minor",
        drums="hiphop @boombap @trap @trap",
        basses="808 808 sub electric",
        figures="808 pop",
        others="piano epiano pad pluck strings orchestral solo lead",
        vocals="rap rap sung",
        sevenths=0.5,
        swing=0.4,
        acoustic=0.2,
    ),
    "electronic": Genre(
        weight=1.5,
        bpm=(110, 176),
        scales="minor minor dorian major",
        drums="@four @four @break @garage @four dance",
        basses="synth synth sub fm",
        figures="synth",
        others="pad arp supersaw pluck lead stab piano",
        acoustic=0.05,
    ),
    "ballad": Genre(
        weight=1.0,
        bpm=(60, 84),
        scales="major minor major",
        drums="rock/halftime pop/soft soul @half",
        basses="electric upright sub",
        figures="pop 808",
        others="piano piano strings epiano pad clean orchestral solo",
        vocals="sung",
        sevenths=0.3,
        acoustic=0.6,
    ),
    "latin": Genre(
        weight=1.0,
        bpm=(90, 150),
        scales="minor major dorian",
        drums="latin afrocuban latin reggae @reggaeton",
        basses="electric upright sub",
        figures="latin",
        others="piano clean brass strum epiano orchestral solo",
        sevenths=0.5,
        acoustic=0.6,
    ),
    "metal": Genre(
        weight=1.0,
        bpm=(110, 190),
        scales="phrygian minor",
        drums="punk rock @metal @metal",
        basses="electric growl",
        figures="metal rock",
        others="power power power lead_guitar strings",
        vocals="sung sung shout",
        acoustic=0.8,
    ),
    "jazz": Genre(
        weight=0.6,
        bpm=(80, 180),
        scales="dorian major mixolydian",
        drums="jazz jazz blues gospel",
        basses="upright upright electric",
        figures="walk",
        others="piano epiano clean organ brass orchestral solo",
        vocals="sung",
        sevenths=1.0,
        swing=0.6,
        acoustic=0.9,
    ),
}
