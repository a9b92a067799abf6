"""An error's message on one line."""


def one_line(error: BaseException | str) -> str:
    """The message with each run of white space, line breaks among it, as one space.

    Of an OSError what the system says, without its number and the file name; the name of the type where an
    error has no message.

    >>> one_line(ValueError("first line\\n  second line"))
    'first line second line'
    >>> one_line(FileNotFoundError(2, "No such file or directory", "a.jpg"))
    'No such file or directory'
    >>> one_line(MemoryError())
    'MemoryError'
    """
    message = error.strerror if isinstance(error, OSError) and error.strerror else error
    return " ".join(str(message).split()) or (error if isinstance(error, str) else type(error).__name__)
