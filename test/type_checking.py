"""The type checker that tests put on the library's functions."""

from beartype import BeartypeConf, FrozenDict, beartype
from numpy.typing import ArrayLike

# Integers pass for floats, as for static checkers. NumPy's protocol of nested sequences would refuse tuples.
typechecked = beartype(
    conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({ArrayLike: object, ArrayLike | None: object}))
)
