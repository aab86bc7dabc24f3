"""Plans that no longer run, plans that Triton does not take, and what is served instead."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import DETECTOR_NAME, POSE_NAME, make_repository
from made_tensorrt import MadeTensorRT, made_builder
from posegate.backends.triton_config import write_configs
from posegate.plan_files import read_record, seed
from posegate.plan_loading import LoadRefused, NotLoaded, TritonLoader
from posegate.plans import PlanBuilder, PlanResult


class MadeTriton:
    """Takes orders, and refuses what is in `refused`; `served` is what it loaded last."""

    def __init__(self, version: Path) -> None:
        self.version = version
        self.refused: list[bytes] = []
        self.reachable = True
        self.served: bytes | None = None

    def load(self, name: str) -> None:
        if not self.reachable:
            raise NotLoaded("Triton at here:1 cannot be reached")
        plan = self.version / "model.plan"
        found = plan if plan.is_file() else self.version / "model.onnx"
        if found.read_bytes() in self.refused:
            raise LoadRefused("Triton at here:1 refused it: wrong version")
        self.served = found.read_bytes()


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    repository = make_repository(tmp_path)
    write_configs(repository)
    return repository


@pytest.fixture
def version(networks: Path) -> Path:
    return networks / POSE_NAME / "1"


@pytest.fixture
def tensorrt() -> MadeTensorRT:
    return MadeTensorRT()


@pytest.fixture
def triton(version: Path) -> MadeTriton:
    return MadeTriton(version)


@pytest.fixture
def builder(tensorrt: MadeTensorRT, triton: MadeTriton, tmp_path: Path) -> PlanBuilder:
    return made_builder(tensorrt, tmp_path / "cache", triton)


def build(builder: PlanBuilder, networks: Path) -> PlanResult:
    (result,) = builder.build_all(networks, (POSE_NAME,))
    return result


def test_a_cached_plan_that_no_longer_runs_is_built_once_more(
    builder, tensorrt, networks, tmp_path
):
    build(builder, networks)
    (cached,) = (tmp_path / "cache").rglob("model.plan")
    cached.write_bytes(b"of another driver")
    tensorrt.unrunnable = [b"of another driver"]
    assert build(builder, networks).state == "kept"
    assert len(tensorrt.built) == 2
    assert cached.read_bytes() != b"of another driver"


def test_a_plan_that_does_not_run_when_built_anew_is_served_no_longer(
    builder, tensorrt, triton, networks, version, tmp_path
):
    build(builder, networks)
    tensorrt.runs = False
    result = build(builder, networks)
    assert result.state == "failed"
    assert "needs another driver; it was served and was taken away" in result.note
    assert len(tensorrt.built) == 2
    assert [path.name for path in version.iterdir()] == ["model.onnx"]
    assert triton.served == (version / "model.onnx").read_bytes()
    assert not list((tmp_path / "cache").rglob("model.plan"))
    tensorrt.runs = True
    assert build(builder, networks).state == "published"


def test_a_served_plan_of_another_precision_stays_when_one_does_not_run(
    builder, tensorrt, networks, version
):
    build(builder, networks)
    tensorrt.runs = False
    assert build(replace(builder, precision="fp16"), networks).state == "failed"
    assert read_record(version)["precision"] == "fp32"


def test_a_served_plan_over_the_limit_is_served_no_longer(builder, tensorrt, networks, version):
    build(builder, networks)
    tensorrt.noise = 2.0
    assert build(builder, networks).state == "refused"
    assert [path.name for path in version.iterdir()] == ["model.onnx"]


def test_a_running_triton_takes_a_new_plan_and_one_that_was_kept(
    builder, triton, networks, version
):
    assert build(builder, networks).state == "published"
    assert triton.served == (version / "model.plan").read_bytes()
    triton.served = None
    assert build(builder, networks).state == "kept"
    assert triton.served == (version / "model.plan").read_bytes()


def test_onnx_serves_while_a_plan_for_another_tensorrt_is_replaced(
    builder, tensorrt, triton, networks, version
):
    build(builder, networks)
    seen = []
    tensorrt.version = "110000"
    tensorrt.building = lambda: seen.append(triton.served)
    assert build(builder, networks).state == "published"
    assert seen == [(version / "model.onnx").read_bytes()]


def test_what_triton_refuses_gives_way_to_the_former_plan(builder, triton, networks, version):
    build(builder, networks)
    former, record = (version / "model.plan").read_bytes(), read_record(version)
    triton.refused = [former.removesuffix(b"fp32") + b"fp16"]
    result = build(replace(builder, precision="fp16"), networks)
    assert result.state == "refused"
    assert result.note.endswith("wrong version; the former plan serves again")
    assert (version / "model.plan").read_bytes() == triton.served == former
    assert read_record(version) == record


def test_without_a_former_plan_the_onnx_file_serves_again(builder, triton, networks, version):
    onnx = (version / "model.onnx").read_bytes()
    triton.refused = [onnx + b"101300fp32"]
    result = build(builder, networks)
    assert result.state == "refused"
    assert result.note.endswith("wrong version; the ONNX file serves again")
    assert [path.name for path in version.iterdir()] == ["model.onnx"]
    assert triton.served == onnx
    triton.refused.append(onnx)
    assert "there again, but Triton at here:1 refused it" in build(builder, networks).note


def test_a_triton_that_cannot_be_told_leaves_the_plan_for_its_next_start(
    builder, triton, networks, version
):
    triton.reachable = False
    result = build(builder, networks)
    assert (result.state, result.is_served) == ("unloaded", False)
    assert "cannot be reached" in result.note
    assert (version / "model.plan").is_file()


def test_no_triton_at_an_address_is_said_after_a_bounded_wait():
    pytest.importorskip("tritonclient")
    with pytest.raises(NotLoaded, match="9 cannot be reached"):
        TritonLoader(["127.0.0.1:9"], wait_s=0.1).load(POSE_NAME)


def test_a_copied_onnx_file_sets_the_plan_of_another_aside(builder, networks, tmp_path):
    served = tmp_path / "served"
    seed(networks, served)
    builder.build_all(served)
    other = networks / POSE_NAME / "1" / "model.onnx"
    other.write_bytes(other.read_bytes() + b"\n")
    seed(networks, served)
    files = {path.name for path in (served / POSE_NAME / "1").iterdir()}
    assert files == {"model.onnx", "model.plan.former", "plan.json.former"}
    assert (served / DETECTOR_NAME / "1" / "model.plan").is_file()


def test_no_network_waits_for_the_plan_of_another_to_be_rid_of_its_own(
    builder, tensorrt, networks, monkeypatch
):
    builder.build_all(networks)
    built = tensorrt.build
    left = []

    def build(job, plan):
        left.extend(networks.glob("*/1/model.plan"))
        built(job, plan)

    monkeypatch.setattr(tensorrt, "build", build)
    monkeypatch.setattr(tensorrt, "version", f"{tensorrt.version}.1")
    first = builder.build_all(networks)[0]
    assert first.state == "published"
    assert [path.parts[-3] for path in left] in (
        [DETECTOR_NAME],
        [POSE_NAME],
    )  # the first's new one


def test_the_kind_of_crops_is_in_the_row_and_in_the_record(builder, networks, version):
    assert build(builder, networks).as_dict()["crops"] == "made"
    assert json.loads((version / "plan.json").read_text())["crops"] == "made"
    assert build(replace(builder, crops_are="photos"), networks).as_dict()["crops"] == "photos"
    assert read_record(version)["crops"] == "photos"
