"""Templates of pages."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from longilesion.volume_text import volume_text


def environment(package: str = "longilesion.html_report") -> Environment:
    """That of the templates in a package, which escape all text."""
    made = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["volume"] = volume_text
    made.filters["percent"] = lambda share: "-" if share is None else f"{100 * share:+.0f} %"
    return made
