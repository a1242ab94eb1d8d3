"""The errors that a user can fix."""

from pathlib import Path


class VideomemError(Exception):
    """What is wrong, the value, the limit and the remedy, in one line.

    The command line prints it without a traceback and ends with status 2.
    """


def is_empty_or_absent(folder: Path) -> bool:
    """Whether a folder can be made ours without touching anything of the user's."""
    if folder.exists() and not folder.is_dir():
        raise VideomemError(f"{folder}: a file, but a folder is needed here")
    return not folder.exists() or not any(folder.iterdir())


def one_line_reason(error: BaseException) -> str:
    """The cause of a parser's error without the parser's own words around it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, VideomemError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return one_line(error)


def one_line(text: object) -> str:
    return " ".join(str(text).split())[:300]


class DecodingError(VideomemError):
    """A video that cannot be decoded exactly; it goes into the failure table with this reason."""
