"""The plan of a network beside its ONNX file: put in its place, set aside, put back.

`1/model.plan` is what Triton loads and `1/plan.json` what it is tied to; the plan that was there
before, with its own record, has the suffix `.former`.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from posegate.catalog import CARD_NAME, CONFIG_NAME, ONNX_NAME, sha256_of
from posegate.errors import BadOption

PLAN_NAME, RECORD_NAME = "model.plan", "plan.json"
FORMER_PLAN, FORMER_RECORD = f"{PLAN_NAME}.former", f"{RECORD_NAME}.former"


def switch_in(plan: Path, record: dict[str, Any], version: Path) -> None:
    """Put a plan into a version folder, which never holds half a plan, nor none where one was."""
    partial = version / f".{PLAN_NAME}.partial"
    shutil.copyfile(plan, partial)
    served = version / PLAN_NAME
    if served.is_file():
        former = version / f".{FORMER_PLAN}"
        former.unlink(missing_ok=True)
        os.link(served, former)
        former.replace(version / FORMER_PLAN)
        _move_record(version)
    partial.replace(served)
    write_record(version, record)


def set_aside(version: Path) -> None:
    """The plan becomes the former one, so that the ONNX file is next to be served."""
    (version / PLAN_NAME).replace(version / FORMER_PLAN)
    _move_record(version)


def put_back(version: Path, onnx_sha256: str) -> bool:
    """Put the former plan back in place of this one, if it is of the same ONNX file.

    False where there is no such plan: then none is left, and the ONNX file will be served.
    """
    record = read_record(version, FORMER_RECORD)
    fits = record is None or record.get("onnx_sha256") == onnx_sha256
    remove(version)
    if not fits or not (version / FORMER_PLAN).is_file():
        return False
    (version / FORMER_PLAN).replace(version / PLAN_NAME)
    if record is not None:
        (version / FORMER_RECORD).replace(version / RECORD_NAME)
    return True


def remove(version: Path) -> None:
    """Take the plan away for good."""
    for name in (PLAN_NAME, RECORD_NAME):
        (version / name).unlink(missing_ok=True)


def read_record(version: Path, name: str = RECORD_NAME) -> dict[str, Any] | None:
    """What is known of the plan in a version folder, if it is one of ours."""
    try:
        record = json.loads((version / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_record(version: Path, record: dict[str, Any]) -> None:
    """Say in the version folder what its plan is tied to."""
    partial = version / f".{RECORD_NAME}.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(version / RECORD_NAME)


def seed(source: Path, repository: Path) -> None:
    """Copy the networks of one repository into another, so that ONNX serves while plans are built.

    Plans that are there stay, except those of another ONNX file, which are set aside.
    """
    if not source.is_dir():
        raise BadOption(f"there is no model repository at {source}")
    for onnx in sorted(source.glob(f"*/{ONNX_NAME}")):
        folder = onnx.parents[1]
        target = repository / folder.name
        version = (target / ONNX_NAME).parent
        version.mkdir(parents=True, exist_ok=True)
        record = read_record(version)
        if (
            record is not None
            and (version / PLAN_NAME).is_file()
            and record.get("onnx_sha256") != sha256_of(onnx)
        ):
            set_aside(version)
        for name in (ONNX_NAME, CONFIG_NAME, CARD_NAME):
            if (folder / name).is_file():
                partial = target / f".{Path(name).name}.partial"
                shutil.copyfile(folder / name, partial)
                partial.replace(target / name)


def _move_record(version: Path) -> None:
    if (version / RECORD_NAME).is_file():
        (version / RECORD_NAME).replace(version / FORMER_RECORD)
    else:
        (version / FORMER_RECORD).unlink(missing_ok=True)
