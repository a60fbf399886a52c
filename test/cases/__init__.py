"""The sample cases: one of each interface, drawn by `python -m test.cases`, with truth and expected output."""

from pathlib import Path

CASES = Path(__file__).parent
NAMES = ("interface_1", "interface_2", "interface_3", "interface_4")
