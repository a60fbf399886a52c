"""Builds the weights: synthetic pairs, losses, a training loop, evaluation. Never imported by the library."""
