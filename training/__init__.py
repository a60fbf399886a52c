"""Training of the networks: synthetic pairs, losses, training loop, evaluation. Never imported by the library."""

from longilesion.startup import lasting_imports, wait_passively

# Every command of training imports this package before it imports torch.
wait_passively()
with lasting_imports():
    import torch  # noqa: F401
