"""Learning rate schedules: pure functions of the epoch, evaluated on the host in double precision.

A schedule is one function here and one row in `SCHEDULES`; its values at listed epochs are in the tests.
`Plateau` goes by what held-out images say and is a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxcnn.training.plateau import Plateau

Schedule = Callable[[float], float]


def constant(*, rate: float) -> Schedule:
    """The same rate throughout."""
    _positive(rate)
    return lambda _: rate


def listed(*, rate: float, drops: tuple[float, ...], factor: float = 0.1) -> Schedule:
    """`rate` times `factor` at each of the epochs `drops`, in force from that epoch on.

    The reproducible form of "divide by 10 when validation stops improving" (Krizhevsky et al. 2012,
    section 5; Simonyan & Zisserman 2014, section 3.1).
    """
    _positive(rate)
    if list(drops) != sorted(drops) or any(d <= 0 for d in drops):
        raise ValueError(f"drops must be rising epochs above 0, got {drops}")
    if not 0 < factor <= 1:
        raise ValueError(f"factor must lie in (0, 1], got {factor}")
    return lambda epoch: rate * factor ** sum(epoch >= drop for drop in drops)


def exponential(*, rate: float, factor: float = 0.96, every: float = 8.0) -> Schedule:
    """rate * factor ** floor(epoch / every) (Szegedy et al. 2014, section 6: 4 % every 8 epochs)."""
    _positive(rate)
    if not 0 < factor <= 1 or every <= 0:
        raise ValueError(
            f"factor must lie in (0, 1] and every be above 0, got {factor} and {every}"
        )
    return lambda epoch: rate * factor ** math.floor(epoch / every)


def _positive(rate: float) -> None:
    if not 0 < rate < math.inf:
        raise ValueError(f"rate must be positive, got {rate}")


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "listed": listed,
    "exponential": exponential,
    "plateau": Plateau,
}
