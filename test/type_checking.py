"""The check of types and shapes that tests put on the library's functions, and the import hook that puts it there."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from types import FunctionType, SimpleNamespace
from typing import Any, get_type_hints

from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import TypeCheckError, jaxtyped
from jaxtyping._import_hook import Typechecker, _JaxtypingFinder
from numpy.typing import ArrayLike

# Integers pass for floats, as for static checkers. NumPy's protocol of nested sequences would refuse tuples.
_typed = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,
        hint_overrides=FrozenDict({ArrayLike: object, ArrayLike | None: object}),
        violation_type=TypeCheckError,
    )
)
# Within it an axis has one size in all of a call's arguments and in what it returns.
_one_call = jaxtyped("context")


class _Checked(Typechecker):
    """Makes `checked` itself the decorator, where jaxtyping would put its own around it."""

    def get_ast(self) -> ast.expr:
        call = f"jaxtyping._import_hook.Typechecker.lookup['{self.hash}']"
        return ast.parse(call, mode="eval").body


def check_types(packages: Sequence[str]) -> None:
    """Has every function and dataclass of `packages` checked, which are not yet imported."""
    sys.meta_path.insert(0, _JaxtypingFinder(packages, PathFinder, _Checked(f"{__name__}.{checked.__name__}")))


def checked(target: Any) -> Any:
    """A function, or the constructor of a dataclass, that refuses arguments and results unlike its annotations.

    As strict as `jaxtyped` with beartype, for a quarter of its time: a call is checked once, and not first without
    and then with its result; the check is made at the first call, which most functions of a process never see.
    """
    if inspect.isclass(target):
        if dataclasses.is_dataclass(target) and "__init__" in vars(target):
            target.__init__ = checked(target.__init__)
        return target
    if inspect.isgeneratorfunction(target):
        # Here beartype's check would begin with the first item that is asked for.
        return jaxtyped(target, typechecker=_typed)
    return _checked_function(target)


def _checked_function(function: FunctionType) -> Callable[..., Any]:
    # At once, as tests put other things in the place of the names.
    function.__annotations__ = _evaluated(function)
    check: Callable[..., Any] | None = None

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal check
        if check is None:
            # Now there are names that stand below the function; those that static checkers alone import never are.
            later = _evaluated(function)
            function.__annotations__ = {name: Any if isinstance(hint, str) else hint for name, hint in later.items()}
            check = _typed(function)
        with _one_call:
            return check(*args, **kwargs)

    return wrapper


def _evaluated(function: FunctionType) -> dict[str, Any]:
    """The function's annotations; text where they name something that is not there."""
    return {name: _hint(given, function.__globals__) for name, given in function.__annotations__.items()}


def _hint(annotation: Any, names: dict[str, Any]) -> Any:
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"it": annotation}), names, include_extras=True)["it"]
    except NameError:
        return annotation
