"""doctor says what cannot work, with the exit status too."""

import json
import shutil
import stat
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from fakes import DETECTOR_NAME, POSE_NAME, make_repository
from made_tensorrt import MADE_TRTEXEC
from posegate import doctor, doctor_triton
from posegate.catalog import load_catalog
from posegate.cli import app
from posegate.plan_files import write_record
from posegate.platforms import PLATFORMS, Finding
from posegate.settings import Settings
from posegate.tensorrt_tools import tensorrt_release

MATRIX = tomllib.loads(PLATFORMS.read_text())
ROWS = MATRIX["platform"]


# machine, L4T release, the row that fits
@pytest.mark.parametrize(
    ("machine", "l4t", "name"),
    [
        ("x86_64", None, "desktop"),
        ("aarch64", "36.4.3", "jetpack-6"),
        ("aarch64", "38.2.0", "jetpack-7"),
        ("aarch64", "32.7.1", None),  # JetPack 4: no image of ours
        ("riscv64", None, None),
    ],
)
def test_platform_for_a_machine(machine, l4t, name):
    row = doctor.fitting_platform(machine=machine, l4t=l4t, platforms=ROWS)
    assert (row and row["name"]) == name


def test_jetson_release_is_read(tmp_path: Path, monkeypatch):
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    monkeypatch.setattr(doctor, "L4T_RELEASE", release)
    found = {one.what: one.found for one in doctor.examine(Settings(model_repository=tmp_path))}
    assert found["L4T"] == "36.4.3"


def test_a_machine_that_can_serve_exits_with_zero(repository: Path):
    result = CliRunner().invoke(app, ["doctor", "--model-repository", str(repository), "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert "wrong" not in {row["verdict"] for row in rows}


def test_a_folder_without_networks_is_wrong(tmp_path: Path):
    result = CliRunner().invoke(app, ["doctor", "--model-repository", str(tmp_path), "--json"])
    assert result.exit_code == 1
    (row,) = [row for row in json.loads(result.stdout) if row["verdict"] == "wrong"]
    assert row["what"] == "model repository"


@pytest.mark.parametrize(
    ("missing", "verdict", "words"),
    [(DETECTOR_NAME, "absent", "no person detector"), (POSE_NAME, "wrong", "no pose network")],
)
def test_a_repository_without_one_of_the_two_networks(
    tmp_path: Path, missing: str, verdict: str, words: str
):
    repository = make_repository(tmp_path)
    shutil.rmtree(repository / missing)
    found = {one.what: one for one in doctor.examine(Settings(model_repository=repository))}
    finding = found["model repository"]
    assert finding.verdict == verdict
    assert words in finding.found


def test_a_network_that_is_not_what_its_card_says_is_wrong(tmp_path: Path):
    other = {"kind": "heatmap", "width": 24, "height": 16, "sigma": 1.5, "scale": [4, 4]}
    repository = make_repository(tmp_path, pose_changes={"codec": other})
    settings = Settings(model_repository=repository)
    (wrong,) = [one for one in doctor.examine(settings) if one.verdict == "wrong"]
    assert wrong.what == f"network {POSE_NAME}"
    assert "its card promises float32 (1, 17, 16, 24)" in wrong.found


def test_certificates_that_cannot_be_read_are_wrong(
    repository: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("POSEGATE_TLS_CERTIFICATE", "/nope")
    monkeypatch.setenv("POSEGATE_TLS_KEY", "/nope.key")
    result = CliRunner().invoke(app, ["doctor", "--model-repository", str(repository), "--json"])
    assert result.exit_code == 1
    (row,) = [row for row in json.loads(result.stdout) if row["verdict"] == "wrong"]
    assert row["what"] == "TLS"
    assert row["found"].startswith("setting tls_certificate: /nope cannot be read: No such file")


def test_traces_without_their_package_are_wrong(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "posegate.tracing_otel", None)
    (wrong,) = [
        one
        for one in doctor.examine(Settings(otlp_endpoint="http://collector:4318"))
        if one.verdict == "wrong"
    ]
    assert wrong.what == "traces"
    assert "pip install 'posegate[otel]'" in wrong.found


def test_a_triton_that_is_not_there_is_wrong(repository: Path):
    pytest.importorskip("tritonclient")
    settings = ["--model-repository", str(repository), "--backend", "triton"]
    result = CliRunner().invoke(app, ["doctor", *settings, "--triton-urls", "127.0.0.1:9"])
    assert result.exit_code == 1
    assert "127.0.0.1:9" in result.stdout


# the target, what the machine is, the backend, and the words of what is wrong, if anything is
@pytest.mark.parametrize(
    ("target", "sm", "backend", "words"),
    [
        ("desktop", None, "triton", "no NVIDIA GPU"),
        ("jetson", None, "triton", "no NVIDIA GPU"),
        ("desktop", "8.9", "onnx", "runs on the CPU"),
        ("desktop", "8.7", "triton", "this is a Jetson"),
        ("jetson", "8.9", "triton", "no Jetson"),
        ("desktop", "8.9", "triton", None),
        ("jetson", "8.7", "triton", None),
        ("cpu", None, "onnx", None),
    ],
)
def test_a_gpu_that_was_asked_for_and_would_not_be_used_is_wrong(
    monkeypatch, repository: Path, target: str, sm: str | None, backend: str, words: str | None
):
    async def no_tritons(*_: object) -> list[Finding]:
        return []

    monkeypatch.setattr(doctor, "gpu_sm", lambda: sm)
    monkeypatch.setattr(doctor, "ask_tritons", no_tritons)
    settings = Settings(model_repository=repository, backend=backend)
    findings = doctor.examine(settings, target=target)
    wrong = [one for one in findings if one.verdict == "wrong"]
    if words is None:
        assert wrong == []
    else:
        (finding,) = wrong
        assert finding.what == f"target {target}"
        assert words in finding.found


def test_asking_for_a_gpu_where_there_is_none_exits_with_one(monkeypatch, repository: Path):
    monkeypatch.setattr(doctor, "gpu_sm", lambda: None)
    monkeypatch.setattr(doctor, "output_of", lambda *_: "")
    command = ["doctor", "--model-repository", str(repository), "--target", "desktop", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "no NVIDIA GPU is here" in result.stdout


def test_every_tag_is_of_the_release():
    tags = {row[kind] for row in ROWS for kind in ("triton", "tensorrt")}
    assert {tag.split("-")[0] for tag in tags} == {MATRIX["release"]}


# what trtexec or the Python module says, and the version that is meant
@pytest.mark.parametrize(
    ("said", "release"),
    [("101300", "10.13.0"), ("8601", "8.6.1"), ("10.13.2.6", "10.13.2"), ("unknown", "unknown")],
)
def test_one_version_of_tensorrt_is_written_in_several_ways(said, release):
    assert tensorrt_release(said) == release


# compute capability, the target, and the verdict on the image
@pytest.mark.parametrize(
    ("sm", "target", "verdict"),
    [
        ("3.7", "cpu", "absent"),
        ("3.7", "desktop", "wrong"),
        ("7.5", "desktop", "ok"),
        ("12.0", "desktop", "ok"),  # as numbers, not as text
    ],
)
def test_no_image_fits_a_gpu_that_is_too_old(monkeypatch, tmp_path, sm, target, verdict):
    monkeypatch.setattr(doctor, "gpu_sm", lambda: sm)
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    found = doctor.examine(Settings(model_repository=tmp_path), target=target)
    (image,) = [one for one in found if one.what == "Triton image"]
    assert image.verdict == verdict
    assert ("needs SM 7.5" in image.found) == (verdict != "ok")


def test_trtexec_is_found_where_containers_have_it_and_asked_for_its_version(monkeypatch, tmp_path):
    program = tmp_path / "trtexec"
    program.write_text(MADE_TRTEXEC.format(python=sys.executable))
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr("posegate.tensorrt_tools.TRTEXEC_PLACES", (str(tmp_path),))
    found = {one.what: one.found for one in doctor.examine(Settings(model_repository=tmp_path))}
    assert found["TensorRT"] == "10.13.0"


# what lies there, and the words of the finding; None where nothing is wrong
@pytest.mark.parametrize(
    ("plan", "changes", "words"),
    [
        (b"a plan", {}, None),
        (b"a plan", {"tensorrt": "101200"}, "of TensorRT 10.12.0, here is 10.13.0"),
        (b"a plan", {"tensorrt": "10.13.0.35"}, None),  # the same, as the Python module says it
        (b"a plan", {"sm": "12.0"}, "for SM 12.0, this GPU has 8.9"),
        (b"a plan", {"onnx_sha256": "0" * 64}, "of another model.onnx"),
        (b"", {}, "empty"),
    ],
)
def test_a_plan_that_does_not_fit_this_machine_is_wrong(
    monkeypatch, tmp_path, plan, changes, words
):
    repository = make_repository(tmp_path)
    model = load_catalog(repository).models[POSE_NAME]
    version = model.onnx_path.parent
    (version / "model.plan").write_bytes(plan)
    tied = {"onnx_sha256": model.card.sha256, "tensorrt": "101300", "sm": "8.9"}
    write_record(version, tied | {"precision": "fp32"} | changes)
    monkeypatch.setattr(doctor, "gpu_sm", lambda: "8.9")
    monkeypatch.setattr(doctor, "_tensorrt", lambda: "10.13.0")
    found = {one.what: one for one in doctor.examine(Settings(model_repository=repository))}
    finding = found[f"plan of {POSE_NAME}"]
    assert finding.verdict == ("ok" if words is None else "wrong")
    assert words is None or words in finding.found
    model.onnx_path.unlink()
    found = {one.what: one for one in doctor.examine(Settings(model_repository=repository))}
    finding = found[f"plan of {POSE_NAME}"]
    assert finding.verdict == "wrong"
    assert ("empty" if plan == b"" else "model.onnx, which it was made from") in finding.found


async def test_only_a_network_all_of_whose_instances_are_on_the_cpu_runs_there():
    cpu, gpu = (SimpleNamespace(kind=kind, KIND_CPU=2) for kind in (2, 1))
    groups = {"slow": [cpu, cpu], "mixed": [gpu, cpu], "fast": [gpu], "ensemble": [], "off": [cpu]}

    class MadeClient:
        async def get_model_config(self, name: str, **_: float):
            return SimpleNamespace(config=SimpleNamespace(instance_group=groups[name]))

    states = dict.fromkeys(groups, "READY") | {"off": "UNAVAILABLE"}
    assert await doctor_triton._on_cpu(MadeClient(), states) == ["slow"]
