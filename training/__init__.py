"""Builds the weights: synthetic longitudinal cases, losses, a training loop, evaluation. Never imported by the library."""
