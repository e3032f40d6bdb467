"""Mask estimators, one module per family; `build` makes the one that a card describes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from separator.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from separator.card import ModelCard


def build(card: ModelCard) -> nn.Module:
    """The estimator that `card` describes, with random weights, on torch's default device.

    Every estimator maps a complex mix `[B, C, F, T]` and the stems asked for to real masks
    `[B, S, C, F, T]`. Raises `ModelError` where the card's numbers contradict each other.
    """
    match card.spec.family:
        case "umx":
            from separator.models.umx import Umx

            return Umx(card)
        case "trunk":
            from separator.models.trunk import Trunk

            return Trunk(card)
    raise ModelError(f"{card.name} is of the unknown family {card.spec.family!r}")
