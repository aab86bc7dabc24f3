"""`python -m posegate`, and the command `posegate`."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


def main() -> None:
    """Run the command line."""
    with loading():
        from posegate.cli import app
    app()


@contextmanager
def loading() -> Iterator[None]:
    """Ctrl-C while the modules are being loaded ends the command without a traceback."""
    heard = signal.getsignal(signal.SIGINT)
    if heard is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, heard)


if __name__ == "__main__":
    main()
