"""Script by which a local Ray starts a worker process, in place of Ray's `setup_worker.py`.

Ray starts an interpreter that prepares the runtime environment of a worker and then replaces itself by the
worker. It imports Ray to do so, which takes a third of a second of CPU time for each worker. The workers of a
job have no runtime environment, so there is nothing to prepare.
"""

import os
import sys

_CONTEXT = "--serialized-runtime-env-context="
_LANGUAGE = "--language="


def command(given: list[str]) -> list[str]:
    """The arguments of the interpreter that replaces this process.

    Args:
        given: Ray's arguments for `setup_worker.py`.
    """
    own = (_CONTEXT, _LANGUAGE)
    if all(a in (f"{_CONTEXT}{{}}", f"{_LANGUAGE}PYTHON") for a in given if a.startswith(own)):
        return [a for a in given if not a.startswith(own)]
    worker = next(a for a in given if a.endswith("default_worker.py"))
    return [os.path.join(os.path.dirname(worker), "setup_worker.py"), *given]


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, *command(sys.argv[1:])])
