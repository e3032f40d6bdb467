"""A wider network that begins where a trained one is: `python -m scripts.widen mini wide.safetensors --hidden 384`.

Training then goes on with `start_from: wide.safetensors` and the same numbers in `model.spec`. New units begin with
random weights and feed nothing but each other, so that the answers are the same at first. The idea, knowledge transfer
into a larger network that computes the same function, is that of Chen, Goodfellow & Shlens, "Net2Net", ICLR 2016;
there units are split instead.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor, nn

from separator import modelfile, registry
from separator.card import ModelCard, TrunkSpec
from separator.errors import SepctlError, UsageError
from separator.models.trunk import Trunk


def widened(card: ModelCard, network: nn.Module, **sizes: int) -> tuple[ModelCard, Trunk]:
    """The card and the network with so many units of `hidden`, `lstm_hidden` and `head`, and the answers of `network`.

    Random numbers come from torch's global generator. Raises UsageError for fewer units than there are, and for a
    network of another family.
    """
    old = card.spec
    if not isinstance(old, TrunkSpec):
        raise UsageError(f"{card.name} is of the family {old.family}, and only trunks are widened")
    for name, size in sizes.items():
        if size < getattr(old, name):
            raise UsageError(f"{name} {size} is less than the {getattr(old, name)} of {card.name}")
    spec = old.model_copy(update=sizes)
    card = card.model_copy(update={"spec": spec})
    wide = Trunk(card)
    state = wide.state_dict()
    for name, weights in network.state_dict().items():
        _embed(state[name], weights, [_units(size, old, spec) for size in _sides(name)])
    wide.load_state_dict(state)
    return card, wide.train(network.training)


def _sides(name: str) -> tuple[str, ...]:
    """What the rows, and of a matrix the columns, of a tensor of the network are."""
    match name.split("."):
        case ["squeeze", kind]:
            sides = ("hidden", "")
        case ["lstm", kind]:
            source = "lstm" if "_hh_" in kind else "hidden" if "_l0" in kind else "both"
            sides = ("gates", source)
        case ["heads", _, "hidden", kind]:
            sides = ("head", "joint")
        case ["heads", _, "masks", kind]:
            sides = ("", "head")
        case _:
            return ("",)        # the features' mean and scale
    return sides if kind.startswith("weight") else sides[:1]


def _units(side: str, old: TrunkSpec, new: TrunkSpec) -> Tensor | None:
    """Where the old units are among the new; None: nothing changes."""
    hidden, lstm = torch.arange(old.hidden), torch.arange(old.lstm_hidden)
    both = torch.cat([lstm, new.lstm_hidden + lstm])
    match side:
        case "hidden":
            return hidden
        case "lstm":
            return lstm
        case "both":
            return both
        case "gates":
            return torch.cat([gate * new.lstm_hidden + lstm for gate in range(4)])
        case "joint":
            return torch.cat([hidden, new.hidden + both])
        case "head":
            return torch.arange(old.head)
    return None


def _embed(wide: Tensor, weights: Tensor, units: list[Tensor | None]) -> None:
    """Put `weights` into `wide` at the old units; nothing else reaches these."""
    places = [torch.arange(size) if at is None else at for at, size in zip(units, weights.shape, strict=True)]
    wide[places[0]] = 0
    wide[torch.meshgrid(*places, indexing="ij")] = weights


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--hidden", type=click.IntRange(1), help="Width after the first layer  [default: as it is].")
@click.option("--lstm-hidden", type=click.IntRange(1), help="LSTM units per direction  [default: as it is].")
@click.option("--head", type=click.IntRange(1), help="Hidden width of one stem's head  [default: as it is].")
@click.option("--seed", default=0, show_default=True, help="Of the new units.")
def main(model: str, out: Path, seed: int, **sizes: int | None) -> None:
    """Write to OUT a wider network that answers as MODEL does, a name or a file of a trunk network."""
    if out.exists():
        raise click.ClickException(f"{out} exists")
    torch.manual_seed(seed)
    try:
        card, network = modelfile.load(registry.resolve(model))
        card, wide = widened(card, network, **{name: size for name, size in sizes.items() if size is not None})
        modelfile.save(out, card, wide)
    except SepctlError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out}: {sum(weights.numel() for weights in wide.parameters()):,} parameters")


if __name__ == "__main__":
    main()
