"""Runs in the image: compares its packages with its base's and those that its requirements pin."""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path("/opt/longilesion")


def versions(lines: Iterable[str]) -> dict[str, str]:
    """Version by normalised name, of lines such as `name==1.2`."""
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


def main() -> int:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    ).stdout
    installed = versions(listed.splitlines())
    base = versions((HERE / "base-packages.txt").read_text().splitlines())
    # In place of its torch line the image has its base's torch.
    pinned = versions((HERE / "requirements.txt").read_text().splitlines()) | {"torch": base["torch"]}
    expected = base | pinned
    for name in sorted(installed.keys() | expected.keys()):
        if installed.get(name) != expected.get(name):
            print(f"      {name}: {installed.get(name)}, expected {expected.get(name)}")
    print(f"      {len(base)} packages of the base, {len(installed)} in all")
    return 0 if installed == expected else 1


if __name__ == "__main__":
    sys.exit(main())
