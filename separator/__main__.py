"""`python -m separator` is `sepctl`."""

from __future__ import annotations

from separator.cli import run

if __name__ == "__main__":
    run()
