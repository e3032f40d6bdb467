"""Writes layered multitrack songs, composed and rendered from openly licensed samples, to train separators on."""
