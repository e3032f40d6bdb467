"""How good a model is: BSSEval v4 scores over songs whose stems are known, beside oracles on the same songs."""

from separator.evaluation.methods import ORACLES, Method, mix_itself, model, ratio_mask, wiener_filter
from separator.evaluation.scores import FullScores, WindowScores
from separator.evaluation.scoring import Setup, SongScores, aligned, score

__all__ = [
    "ORACLES",
    "FullScores",
    "Method",
    "Setup",
    "SongScores",
    "WindowScores",
    "aligned",
    "mix_itself",
    "model",
    "ratio_mask",
    "score",
    "wiener_filter",
]
