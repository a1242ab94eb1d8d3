"""The errors that a user can mend."""


class VideomemError(Exception):
    """What is wrong, the value, the limit and the remedy, in one line.

    The command line prints it without a traceback and ends with status 2.
    """


class DecodingError(VideomemError):
    """A video that cannot be decoded exactly; it goes into the ledger with this reason."""
