"""Train a model: `python scripts/train.py CONFIG.yaml`; the same as `sepctl train`."""

from separator.cli.train import train

if __name__ == "__main__":
    train()
