"""Errors that a user can fix."""

from collections.abc import Iterator
from contextlib import contextmanager


class VideomemError(Exception):
    """An error that a user can fix. Its one-line message gives the problem, the value, the limit and the remedy.

    The command line prints the message without a traceback and exits with status 2.
    """


@contextmanager
def requires_extra(name: str, what: str) -> Iterator[None]:
    """Around imports of libraries that an extra of the package installs.

    Args:
        name: The extra.
        what: What needs it, for the message.
    Raises:
        VideomemError: If a library cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        raise VideomemError(
            f"{what} needs {error.name or one_line(error)}; run `pip install 'videomem[{name}]'`"
        ) from error


def one_line_reason(error: BaseException) -> str:
    """The message of the `VideomemError` that caused a parser's error, or else the error's own message."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, VideomemError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return one_line(error)


def one_line(text: object) -> str:
    return " ".join(str(text).split())[:300]


class DecodingError(VideomemError):
    """A video cannot be decoded exactly. The message is the reason given in the failure table."""
