"""sepctl: splits music into its stems.

>>> from separator import Separator                                    # doctest: +SKIP
>>> stems = Separator.load("mini").separate(audio, sample_rate)        # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from separator.separate import Separator

__version__ = "0.1.0"
__all__ = ["Separator", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Separator`, and with it torch, when it is first asked for."""
    if name == "Separator":
        from separator.separate import Separator

        return Separator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
