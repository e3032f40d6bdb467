"""How far stems made segment by segment are from stems made of the whole song at once.

    python scripts/context.py SONG [--model NAME_OR_FILE] [--segments 10,20,30] [--contexts 0.05,0.5,1,2,4]

Prints a Markdown table: energy of the whole-song stems over that of the difference, in dB; higher is closer. Where a
stem differs by less than another model would, say 30 dB, longer segments and contexts only cost time and memory.
Without `--model` a network of umxhq's size with random weights is measured: its memory is shorter than a trained one's,
so its numbers are a check of the method and not of a model. The whole song needs memory that grows with its length:
`--duration` keeps it to a minute by default.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from separator import Separator
from separator.audio import AudioReader
from separator.card import ModelCard, UmxSpec
from separator.modelfile import load
from separator.models import build
from separator.registry import resolve


def main() -> None:
    options = parse()
    card, estimator = random_umxhq() if options.model is None else load(resolve(options.model))
    with AudioReader(options.song, duration_s=options.duration) as reader:
        song, sample_rate = torch.cat(list(reader), dim=-1), reader.sample_rate
    whole_s = song.shape[-1] / sample_rate + 2 * card.context_s + 1
    whole, seconds = run(card, estimator, song, sample_rate, options, segment_s=whole_s)
    print(f"{card.name}, {song.shape[-1] / sample_rate:.0f} s of {options.song.name}, wiener {options.wiener}; "
          f"the whole at once took {seconds:.1f} s\n")
    print(f"| segment_s | context_s | {' | '.join(card.stems)} | seconds |")
    print(f"|{'---|' * (len(card.stems) + 3)}")
    for segment_s, context_s in itertools.product(options.segments, options.contexts):
        if segment_s <= 2 * context_s:
            continue
        stems, seconds = run(card, estimator, song, sample_rate, options, segment_s=segment_s, context_s=context_s)
        closeness = " | ".join(f"{ratio_db(*pair):.1f}" for pair in zip(whole, stems, strict=True))
        print(f"| {segment_s:g} | {context_s:g} | {closeness} | {seconds:.1f} |", flush=True)


def parse() -> argparse.Namespace:
    def numbers(text: str) -> list[float]:
        return [float(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("song", type=Path)
    parser.add_argument("--model", help="name or file; default: random weights of umxhq's size")
    parser.add_argument("--segments", type=numbers, default=[10.0, 20.0, 30.0], help="seconds, separated by commas")
    parser.add_argument("--contexts", type=numbers, default=[0.05, 0.5, 1.0, 2.0, 4.0], help="likewise")
    parser.add_argument("--wiener", type=int, default=0, help="iterations of the Wiener filter")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds of the song that are used")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def random_umxhq() -> tuple[ModelCard, nn.Module]:
    """Masks around 0.5 that depend on what is heard; all channels, stems and bins alike in scale."""
    torch.manual_seed(0)
    card = ModelCard(name="umxhq-random", stems=("vocals", "drums", "bass", "other"), spec=UmxSpec())
    estimator = build(card)
    for name, tensor in estimator.state_dict().items():
        if name.endswith("output_mean"):
            tensor.fill_(0.5)
        elif name.endswith("bn3.running_var"):
            tensor.fill_(0.02)      # about the variance of what comes in
        elif name.endswith("output_scale"):
            tensor.fill_(0.3)
    return card, estimator


def run(
    card: ModelCard, estimator: nn.Module, song: Tensor, sample_rate: int, options: argparse.Namespace, **changes: float
) -> tuple[Tensor, float]:
    """Stems `[S, C, T]` with other segments than the card's, and how long they took. Nothing is made to sum up."""
    changed = ModelCard(**{**card.model_dump(), **changes})
    separator = Separator(changed, estimator, wiener=options.wiener, exact_sum=False, device=options.device, batch=1)
    start = time.perf_counter()
    stems = separator.separate(song, sample_rate)
    return torch.stack(list(stems.values())), time.perf_counter() - start


def ratio_db(whole: Tensor, stems: Tensor) -> float:
    return float(10 * torch.log10(whole.square().sum() / (whole - stems).square().sum()))


if __name__ == "__main__":
    main()
