"""Builds the weights: synthetic pairs, losses, a training loop, evaluation. Never imported by the library."""

from longilesion.startup import wait_passively

# Every command of training comes by here before it imports torch.
wait_passively()
