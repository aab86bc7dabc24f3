"""Which posegate this is."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The version of the installed package."""
    try:
        return version("posegate")
    except PackageNotFoundError:  # run from the source tree
        return "0"
