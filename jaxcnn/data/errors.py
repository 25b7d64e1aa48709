"""The errors of data."""


class DataError(ValueError):
    """Data that cannot be used: missing, in a wrong layout, or with arguments that do not fit it.

    The message says what happened, what was expected, what was found, and what to do.
    """


class DamagedRecord(DataError):
    """A record that is not what was written. Its label cannot be trusted either, so it never counts as one
    corrupt image. `reason` says how it is known."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"record {name} is damaged: {reason}; copy or prepare the data set again")
        self.reason = reason


class CorruptImage(ValueError):
    """One image that cannot be read or decoded; the rest of the data is usable.

    The loaders replace, log and count such an image. `label` is set if the example's label is known
    although its bytes are not.
    """

    def __init__(self, reason: str, label: int | None = None):
        super().__init__(reason)
        self.label = label
