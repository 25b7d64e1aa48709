"""The two ways in which data can be wrong."""


class DataError(ValueError):
    """Data that cannot be used: missing, badly laid out, or asked for in an impossible way.

    The message says what happened, what was expected, what was seen and what to type next.
    """


class CorruptImage(ValueError):
    """One image that cannot be read or decoded; the rest of the data is fine.

    The pipeline replaces such an image, names it and counts it. `label` is set where the example's
    label is known although its bytes are not.
    """

    def __init__(self, reason: str, label: int | None = None):
        super().__init__(reason)
        self.label = label
