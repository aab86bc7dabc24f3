"""One variable of a MATLAB file, with a clear error for a file that is something else."""

from pathlib import Path
from typing import Any

from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from posenets.training.records import BadData

UNREADABLE = (OSError, MatReadError, ValueError, TypeError, IndexError, NotImplementedError)
"""What scipy raises for a file that is not MATLAB's, is cut short, or is of version 7.3."""


def read_variable(path: Path, name: str, *, squeeze: bool) -> Any:
    """Arrays as numpy's, structures as objects; `squeeze` drops axes of length 1."""
    if not path.is_file():
        raise BadData(f"{path} is no file")
    try:
        return loadmat(path, struct_as_record=False, squeeze_me=squeeze)[name]
    except KeyError as error:
        raise BadData(f"{path}: variable {name} is missing") from error
    except UNREADABLE as error:
        raise BadData(f"{path}: not a MATLAB file of version 5 ({error})") from error
