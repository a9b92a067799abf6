"""An error's message on one line."""


def one_line(error: BaseException | str) -> str:
    """The message with every run of white space, including line breaks, replaced by one space.

    For an OSError, the result is the text of the operating system, without the error number and the file
    name. For an error without a message, it is the name of its type.

    >>> one_line(ValueError("first line\\n  second line"))
    'first line second line'
    >>> one_line(FileNotFoundError(2, "No such file or directory", "a.jpg"))
    'No such file or directory'
    >>> one_line(MemoryError())
    'MemoryError'
    """
    message = error.strerror if isinstance(error, OSError) and error.strerror else error
    return " ".join(str(message).split()) or (error if isinstance(error, str) else type(error).__name__)
