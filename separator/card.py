"""A model's card: everything about a model except its weights. No torch here, so reading a card is quick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator


class Frozen(BaseModel):
    """Immutable, and closed: an undeclared key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class UmxSpec(Frozen):
    """Open-Unmix: one BLSTM network per stem (Stoeter, Uhlich, Liutkus & Mitsufuji, JOSS 4(41), 2019)."""

    family: Literal["umx"] = "umx"
    hidden: PositiveInt = 512           # umxhq and umx: 512; umxl: 1024
    layers: PositiveInt = 3
    kept_bins: PositiveInt = 1487       # bins below 16 kHz at 44.1 kHz and n_fft 4096
    bidirectional: bool = True


class TrunkSpec(Frozen):
    """A compact network: one BLSTM trunk shared by all stems, one mask head per stem."""

    family: Literal["trunk"] = "trunk"
    level_s: PositiveFloat = 6.0        # features are relative to the mean power of this much music around
    input_bands: PositiveInt = 144      # log-spaced bands per channel that the trunk sees
    hidden: PositiveInt = 256           # width after the first layer
    lstm_hidden: PositiveInt = 192      # per direction
    layers: PositiveInt = 2
    head: PositiveInt = 192             # hidden width of one stem's head
    fine_bins: PositiveInt = 256        # the lowest bins each get a mask value of their own: 2.7 kHz
    mask_bands: PositiveInt = 214       # log-spaced mask values above them


Spec = Annotated[UmxSpec | TrunkSpec, Field(discriminator="family")]


class ModelCard(Frozen):
    """What a model is, how to run it, where it comes from, and what it was measured to do."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    stems: tuple[str, ...] = Field(min_length=1)
    spec: Spec
    sample_rate: PositiveInt = 44100    # Hz
    channels: PositiveInt = 2
    n_fft: PositiveInt = 4096           # samples; periodic Hann window
    hop: PositiveInt = 1024             # samples
    segment_s: PositiveFloat = 16.0     # audio that passes the network at once: memory grows with it
    context_s: PositiveFloat = 1.0      # of it, heard but not used at each inner edge
    wiener: int = Field(default=0, ge=0)  # EM iterations of the multichannel Wiener filter; 0: masks only
    complete: bool = True               # the stems together are the whole mix
    residual: str | None = None         # the stem that receives what no stem claims (ultrasound, rounding)
    description: str = ""
    licence: str = "unknown"            # of the weights, as an SPDX identifier where one exists
    attribution: tuple[str, ...] = ()   # lines the licence of the training data asks to be shown
    source: str = ""                    # where the weights come from
    training: Mapping[str, Any] = Field(default_factory=dict)  # resolved config, versions, data fingerprint
    scores: Mapping[str, Any] = Field(default_factory=dict)    # measured numbers, with data and command

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        if len(set(self.stems)) != len(self.stems):
            raise ValueError(f"stems are named twice: {', '.join(self.stems)}")
        if self.residual is not None and self.residual not in self.stems:
            raise ValueError(f"residual {self.residual!r} is not one of the stems {', '.join(self.stems)}")
        if self.n_fft % 2 or self.n_fft % self.hop or self.n_fft < 3 * self.hop:   # with 2 the song's end is lost
            raise ValueError(f"n_fft {self.n_fft} must be even, a multiple of hop {self.hop}, and at least 3 times it")
        if self.segment_s <= 2 * self.context_s:
            raise ValueError("segment_s must exceed 2 * context_s")
        return self

    def heir(self, stems: Sequence[str]) -> int | None:
        """Which of these stems is the residual one, if any."""
        return None if self.residual is None else stems.index(self.residual)

    @property
    def bins(self) -> int:
        """Number of frequency bins F of a spectrum."""
        return self.n_fft // 2 + 1
