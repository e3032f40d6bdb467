"""Mask estimators, one module per family; `build` makes the one that a card describes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from separator.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from separator.card import ModelCard
    from separator.models.estimator import Estimator


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


def prepare(network: nn.Module, dtype: torch.dtype) -> Estimator:
    """The network for inference, its layers in `dtype`; a module of no family of ours is used as it is."""
    from separator.models.estimator import Plain
    from separator.models.trunk import Trunk, TrunkEstimator
    from separator.models.umx import FoldedUmx, Umx

    match network:
        case Umx():
            return FoldedUmx(network, dtype)
        case Trunk():
            return TrunkEstimator(network, dtype)
    return Plain(network)
