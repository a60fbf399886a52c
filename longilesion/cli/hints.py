"""Suggestions for common options of other programs that have another name here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_MEANT: Mapping[str, str] = {
    option: meant
    for meant, options in {
        "--lesions": (
            "mask masks lesion lesion-mask baseline-mask baseline-lesions baseline-seg "
            "seg segm segmentation label labelmap roi prior-mask"
        ),
        "--baseline": "prior before bl first pre baseline-ct baseline-scan baseline-image reference fixed",
        "--followup": "follow-up after fu second post current followup-ct followup-scan moving image input",
        "--output": "out outfile out-file output-file result save",
        "--baseline-clicks": "baseline-points bl-clicks prior-clicks",
        "--followup-clicks": "clicks points followup-points follow-up-clicks fu-clicks fiducials markups",
        "--model": "weights bundle checkpoint",
        "--device": "gpu cuda cpu",
    }.items()
    for option in options.split()
}
_WITHOUT_HINTS = ("cohort", "evaluate", "evaluate-diagnosis", "fetch", "store")
_OWN: Mapping[str, frozenset[str]] = {
    "register": frozenset({"points"}),
    "follow": frozenset({"clicks"}),
    "diagnose": frozenset({"weights"}),
}


def hints(arguments: Sequence[str]) -> list[str]:
    """A line for each option that its subcommand does not have, where another is probably meant."""
    if not arguments or arguments[0] in _WITHOUT_HINTS:
        return []
    lines = []
    for argument in arguments[1:]:
        option = argument.partition("=")[0]
        name = option.lstrip("-").replace("_", "-").lower()
        if option == "-o":
            name = "out"
        if option.startswith("-") and name in _MEANT and name not in _OWN.get(arguments[0], ()):
            lines.append(f"{option}: no such option; did you mean {_MEANT[name]}?")
    return lines
