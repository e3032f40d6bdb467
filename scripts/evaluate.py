"""Score a model: `python scripts/evaluate.py MODEL --folder ROOT`; the same as `sepctl evaluate`."""

import sys

from separator.cli import run

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    run()
