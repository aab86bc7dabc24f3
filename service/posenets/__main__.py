"""`python -m posenets`, and the command `posenets`."""

import sys

from posegate.__main__ import loading


def main() -> None:
    """Run the command line, or say what has to be installed for it."""
    try:
        with loading():
            from posenets.cli import app
    except ModuleNotFoundError as error:
        print(
            f"error: posenets needs {error.name}, which is not installed: pip install "
            "torch==2.13.0 && pip install -e '.[train]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from error
    app()


if __name__ == "__main__":
    main()
