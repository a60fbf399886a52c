"""How long a case takes, where the time goes, and what a straightforward program needs for it."""

from longilesion.startup import wait_passively

# As the programs do whose work is measured here in one process.
wait_passively()
