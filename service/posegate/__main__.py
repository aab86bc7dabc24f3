"""`python -m posegate`, and the command `posegate`."""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def main() -> None:
    """Run the command line."""
    with loading():
        from posegate.cli import app
    with writing():
        app()


@contextmanager
def loading() -> Iterator[None]:
    """Ctrl-C while the modules are being loaded ends the command without a traceback."""
    heard = signal.getsignal(signal.SIGINT)
    if heard is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, heard)


@contextmanager
def writing() -> Iterator[None]:
    """End the command with a sentence where standard output takes no more, as on a full disk."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or it is tried again
        if error.errno == errno.EPIPE:  # nobody reads any more, and nobody is told
            sys.exit(1)
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
