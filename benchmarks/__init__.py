"""Benchmarks: time of a case and its stages, compared with a straightforward program."""

from longilesion.startup import wait_passively

# The same setting as in the programs whose work is measured here in one process.
wait_passively()
