"""Plans are built once for a machine, checked before they are served, and switched in whole."""

import json
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fakes import DETECTOR_NAME, POSE_NAME, encode, make_photo, make_repository
from made_tensorrt import MADE_TRTEXEC, MadeTensorRT, made_builder
from posegate import cli_build, doctor
from posegate.backends.triton_config import write_configs
from posegate.catalog import load_catalog
from posegate.cli import app
from posegate.errors import BadCard, UnknownModel
from posegate.plan_check import PlanCheck, compare, made_crops, onnx_outputs
from posegate.plan_files import read_record
from posegate.plans import TARGETS, Limits, PlanBuilder
from posegate.settings import Settings
from posegate.tensorrt_tools import Trtexec


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    repository = make_repository(tmp_path)
    write_configs(repository)
    return repository


@pytest.fixture
def tensorrt() -> MadeTensorRT:
    return MadeTensorRT()


@pytest.fixture
def builder(tensorrt: MadeTensorRT, tmp_path: Path) -> PlanBuilder:
    return made_builder(tensorrt, tmp_path / "cache")


def states(results) -> dict[str, str]:
    return {result.name: result.state for result in results}


def version_of(networks: Path, name: str = POSE_NAME) -> Path:
    return networks / name / "1"


def test_plans_go_beside_their_onnx_files(builder, networks):
    told = []
    results = builder.build_all(networks, on_plan=lambda *turn: told.append(turn))
    assert sorted(name for name, _, _ in told) == sorted([POSE_NAME, DETECTOR_NAME])
    assert [turn[1:] for turn in told] == [(0, 2), (1, 2)]
    assert states(results) == {POSE_NAME: "published", DETECTOR_NAME: "published"}
    for name in (POSE_NAME, DETECTOR_NAME):
        files = {path.name for path in version_of(networks, name).iterdir()}
        assert files == {"model.onnx", "model.plan", "plan.json"}
    record = read_record(version_of(networks))
    card = load_catalog(networks).models[POSE_NAME].card
    tied = {"onnx_sha256": card.sha256, "tensorrt": "101300", "sm": "8.9", "precision": "fp32"}
    assert tied.items() <= record.items()
    assert record["profile"] == "1-8-32"


def test_a_plan_is_built_once_for_all_that_it_is_tied_to(builder, tensorrt, networks):
    builder.build_all(networks, (POSE_NAME,))
    again = builder.build_all(networks, (POSE_NAME,))
    assert states(again) == {POSE_NAME: "kept"}
    assert len(tensorrt.built) == 1
    others = (
        replace(builder, sm="8.7"),
        replace(builder, precision="fp16"),
        replace(builder, target=TARGETS["jetson"]),
    )
    for number, other in enumerate(others, 2):
        other.build_all(networks, (POSE_NAME,))
        assert len(tensorrt.built) == number
    tensorrt.version = "110000"
    builder.build_all(networks, (POSE_NAME,))
    assert len(tensorrt.built) == 5


def test_a_plan_over_the_limit_is_not_served_and_the_former_is(builder, tensorrt, networks):
    builder.build_all(networks, (POSE_NAME,))
    former = (version_of(networks) / "model.plan").read_bytes()
    tensorrt.noise = 2.0
    (result,) = replace(builder, precision="fp16").build_all(networks, (POSE_NAME,))
    assert result.state == "refused"
    assert result.check.max_pixel_diff > 1.0
    assert "px from the ONNX file" in result.note
    assert (version_of(networks) / "model.plan").read_bytes() == former
    assert read_record(version_of(networks))["precision"] == "fp32"


def test_the_former_plan_is_kept_when_another_is_switched_in(builder, tensorrt, networks):
    builder.build_all(networks, (POSE_NAME,))
    former = (version_of(networks) / "model.plan").read_bytes()
    tensorrt.version = "110000"
    assert states(builder.build_all(networks, (POSE_NAME,))) == {POSE_NAME: "published"}
    assert (version_of(networks) / "model.plan").read_bytes() != former
    assert (version_of(networks) / "model.plan.former").read_bytes() == former
    assert read_record(version_of(networks))["tensorrt"] == "110000"


def test_a_failed_build_leaves_nothing_half_done(builder, tensorrt, networks, tmp_path):
    tensorrt.failure = "out of memory"
    (result,) = builder.build_all(networks, (POSE_NAME,))
    assert (result.state, result.note) == ("failed", "out of memory")
    assert [path.name for path in version_of(networks).iterdir()] == ["model.onnx"]
    assert not list((tmp_path / "cache").rglob("model.plan"))


def test_the_plan_of_another_gpu_is_set_aside_so_that_onnx_serves(builder, tensorrt, networks):
    builder.build_all(networks, (POSE_NAME,))
    tensorrt.failure = "no memory"
    replace(builder, sm="12.0").build_all(networks, (POSE_NAME,))
    files = {path.name for path in version_of(networks).iterdir()}
    assert files == {"model.onnx", "model.plan.former", "plan.json.former"}


# what is changed in the config, and what the note must say
@pytest.mark.parametrize(
    ("change", "note"),
    [
        (("max_batch_size: 32", "max_batch_size: 64"), "max_batch_size 64"),
        (("max_batch_size: 32", "max_batch_size: 0"), "max_batch_size 0"),
        (("max_batch_size: 32", 'platform: "onnxruntime_onnx"\nmax_batch_size: 32'), "platform"),
    ],
)
def test_a_config_that_a_plan_cannot_serve(builder, networks, change, note):
    path = networks / POSE_NAME / "config.pbtxt"
    path.write_text(path.read_text().replace(*change))
    (result,) = builder.build_all(networks, (POSE_NAME,))
    assert result.state == "failed"
    assert note in result.note


def test_a_corrupt_onnx_file_stops_everything_before_it_is_built(builder, tensorrt, networks):
    (version_of(networks) / "model.onnx").write_bytes(b"corrupt")
    with pytest.raises(BadCard, match="sha256"):
        builder.build_all(networks)
    assert tensorrt.built == []


def test_an_unknown_network_is_named(builder, networks):
    with pytest.raises(UnknownModel, match="made-pose"):
        builder.build_all(networks, ("nobody",))


def test_decoded_forms_get_plans_too(builder, networks):
    pytest.importorskip("onnx")
    from posenets.export.in_graph import export_decoded

    export_decoded(networks)
    assert states(builder.build_all(networks, (POSE_NAME,))) == {
        POSE_NAME: "published",
        f"{POSE_NAME}-decoded": "published",
    }


def test_outputs_that_are_no_numbers_are_infinitely_far(networks):
    model = load_catalog(networks).models[POSE_NAME]
    expected = onnx_outputs(model, made_crops(model))
    broken = {name: np.full_like(output, np.nan) for name, output in expected.items()}
    check = compare(model.card, expected, broken)
    assert check.max_pixel_diff == float("inf")
    assert "no finite numbers" in Limits().passed_by(check)
    assert Limits(max_pixel_diff=float("inf"), min_oks=0).passed_by(check) is not None
    assert Limits().passed_by(compare(model.card, expected, expected)) is None
    assert Limits().passed_by(compare(model.card, expected, {})) is not None


def test_the_report_has_no_figure_for_what_is_infinitely_far(builder, tensorrt, networks):
    tensorrt.noise = float("nan")
    (result,) = builder.build_all(networks, (POSE_NAME,))
    row = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert row["state"] == "refused"
    assert (row["max_abs_diff"], row["max_pixel_diff"], row["oks"]) == (None, None, 0.0)


# pixels and OKS just within the limits that hold unless others are asked for, and just beyond
@pytest.mark.parametrize(
    ("pixels", "oks", "passes"),
    [(1.0, 0.99, True), (1.0, None, True), (1.01, 1.0, False), (0.0, 0.989, False)],
)
def test_a_plan_may_lie_a_pixel_and_a_hundredth_of_oks_away(pixels, oks, passes):
    assert (Limits().passed_by(PlanCheck(0.1, pixels, oks)) is None) == passes


def test_oks_has_a_limit_of_its_own():
    limits = Limits(max_pixel_diff=9.0, min_oks=0.99)
    assert limits.passed_by(PlanCheck(0.1, 5.0, 0.995)) is None
    assert "OKS" in limits.passed_by(PlanCheck(0.1, 5.0, 0.95))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A desktop with a made GPU and a made trtexec; returns the record of its calls."""
    programs = {
        "trtexec": MADE_TRTEXEC.format(python=sys.executable),
        "nvidia-smi": "#!/bin/sh\necho 8.9\n",
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def build(networks: Path, tmp_path: Path, *more: str):
    places = ["--model-repository", str(networks), "--cache", str(tmp_path / "cache")]
    return CliRunner().invoke(app, ["models", "build", POSE_NAME, *places, *more])


def test_the_command_builds_with_trtexec(machine, networks, tmp_path):
    result = build(networks, tmp_path, "--precision", "fp16", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert (row["name"], row["state"]) == (POSE_NAME, "published")
    assert row["max_pixel_diff"] < 0.01
    assert row["oks"] > 0.999
    calls = machine.read_text()
    assert "--minShapes=input:1x3x64x48 --optShapes=input:8x3x64x48" in calls
    assert "--maxShapes=input:32x3x64x48" in calls
    assert "--fp16" in calls
    findings = {one.what: one for one in doctor.examine(Settings(model_repository=networks))}
    assert findings[f"plan of {POSE_NAME}"].verdict == "ok"


# how C++, and so trtexec, writes what is no finite number
@pytest.mark.parametrize("word", ["nan", "-nan", "inf", "-inf"])
def test_a_plan_that_gives_no_numbers_is_refused_and_not_built_again(
    machine, networks, tmp_path, monkeypatch, word
):
    monkeypatch.setenv("GIVES", word)
    for _ in range(2):
        result = build(networks, tmp_path, "--json")
        (row,) = json.loads(result.stdout)
        assert (result.exit_code, row["state"]) == (1, "refused")
        assert "no finite numbers" in row["note"]
    assert machine.read_text().count("--saveEngine") == 1


def test_an_output_may_be_named_like_what_is_no_number(tmp_path):
    program = tmp_path / "trtexec"
    rows = '[{"name": "-nan, inf", "dimensions": "1x4", "values": [1, -nan, inf, -inf]}]'
    writes = (
        f"for word; do case $word in --exportOutput=*) echo '{rows}' > ${{word#*=}};; esac; done"
    )
    program.write_text(f"#!/bin/sh\n{writes}\n")
    program.chmod(stat.S_IRWXU)
    crops = np.zeros((1, 3, 2, 2), np.float32)
    outputs = Trtexec(str(program)).run(tmp_path / "model.plan", "input", crops)
    np.testing.assert_array_equal(outputs["-nan, inf"], [[1, np.nan, np.inf, -np.inf]])


def test_photos_of_a_config_map_are_counted_once(machine, networks, tmp_path, monkeypatch):
    """Kubernetes mounts a.png -> ..data/a.png, and ..data -> ..2025_01."""
    mounted = tmp_path / "photos"
    (mounted / "..2025_01").mkdir(parents=True)
    (mounted / "..2025_01" / "a.png").write_bytes(encode(make_photo()))
    (mounted / "..data").symlink_to("..2025_01")
    (mounted / "a.png").symlink_to("..data/a.png")
    taken = []

    async def photo_crops(model, photos, settings):
        taken.extend(photos)
        return made_crops(model)

    monkeypatch.setattr(cli_build, "photo_crops", photo_crops)
    assert build(networks, tmp_path, "--photos", str(mounted)).exit_code == 0
    assert taken == [mounted / "a.png"]


def test_the_command_says_whether_crops_were_of_photos(machine, networks, tmp_path):
    """A folder without a photo is no error: containers mount one, filled or not."""
    photos = tmp_path / "photos"
    photos.mkdir()
    result = build(networks, tmp_path, "--photos", str(photos), "--json")
    assert (result.exit_code, json.loads(result.stdout)[0]["crops"]) == (0, "made")
    (photos / "one.png").write_bytes(encode(make_photo()))
    result = build(networks, tmp_path, "--photos", str(photos), "--json")
    assert (result.exit_code, json.loads(result.stdout)[0]["crops"]) == (0, "photos")
    assert "photos" in build(networks, tmp_path, "--photos", str(photos)).stdout
    assert build(networks, tmp_path, "--photos", str(tmp_path / "nosuch")).exit_code == 2


def test_doctor_says_that_a_plan_is_for_another_gpu(machine, networks, tmp_path):
    build(networks, tmp_path)
    (machine.parent / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho 12.0\n")
    findings = {one.what: one for one in doctor.examine(Settings(model_repository=networks))}
    assert findings[f"plan of {POSE_NAME}"].verdict == "wrong"
    assert "8.9" in findings[f"plan of {POSE_NAME}"].found


def test_networks_are_copied_first_so_that_onnx_serves_meanwhile(machine, networks, tmp_path):
    served = tmp_path / "served"
    result = build(served, tmp_path, "--from", str(networks))
    assert result.exit_code == 0, result.output
    assert (version_of(served) / "model.plan").is_file()
    assert [path.name for path in version_of(served, DETECTOR_NAME).iterdir()] == ["model.onnx"]


def test_networks_can_be_copied_alone(networks, tmp_path):
    """Before Triton starts; that takes neither TensorRT nor a GPU."""
    served = tmp_path / "served"
    assert build(served, tmp_path, "--from", str(networks), "--copy-only").exit_code == 0
    assert [path.name for path in version_of(served).iterdir()] == ["model.onnx"]
    assert build(served, tmp_path, "--copy-only").exit_code == 2


# what the machine lacks, and what the error must name
@pytest.mark.parametrize(
    ("lacks", "words"), [("trtexec", "neither trtexec"), ("nvidia-smi", "no NVIDIA GPU")]
)
def test_what_is_missing_is_named(machine, networks, tmp_path, lacks, words, monkeypatch):
    (machine.parent / "bin" / lacks).unlink()
    monkeypatch.setattr("posegate.tensorrt_tools.cuda_driver", lambda: None)
    result = build(networks, tmp_path)
    assert result.exit_code == 2
    assert words in result.stderr
    assert [path.name for path in version_of(networks).iterdir()] == ["model.onnx"]


def test_a_jetson_is_no_desktop(machine, networks, tmp_path, monkeypatch):
    result = build(networks, tmp_path, "--target", "jetson")
    assert result.exit_code == 2
    assert "no Jetson" in result.stderr
    monkeypatch.setattr(cli_build, "is_jetson", lambda: True)
    assert build(networks, tmp_path).exit_code == 2
    assert build(networks, tmp_path, "--target", "jetson").exit_code == 0


@pytest.mark.parametrize("place", ["variable", "file"])
def test_networks_are_copied_to_the_repository_of_the_settings(
    networks, tmp_path, monkeypatch, place
):
    served = tmp_path / "served"
    command = ["models", "build", "--from", str(networks), "--copy-only"]
    if place == "variable":
        monkeypatch.setenv("POSEGATE_MODEL_REPOSITORY", str(served))
    else:
        (tmp_path / "settings.toml").write_text(f'model_repository = "{served}"')
        command += ["--config", str(tmp_path / "settings.toml")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert [path.name for path in version_of(served).iterdir()] == ["model.onnx"]


def test_networks_are_not_copied_onto_themselves(networks, tmp_path):
    same = tmp_path / "other" / ".." / networks.name
    result = build(networks, tmp_path, "--from", str(same), "--copy-only")
    assert result.exit_code == 2
    assert "is the model repository itself; name the folder to copy to" in result.stderr


def test_copying_alone_needs_a_folder_to_copy_from(networks, tmp_path):
    result = build(networks, tmp_path, "--copy-only")
    assert result.exit_code == 2
    assert "--copy-only needs --from" in result.stderr


@pytest.mark.parametrize("urls", ["127.0.0.1", "http://127.0.0.1:8001", ""])
def test_an_address_that_is_none_of_a_triton_is_refused(machine, networks, tmp_path, urls):
    result = build(networks, tmp_path, "--triton-urls", urls)
    assert result.exit_code == 2
    assert "needs host:port of at least one Triton, without http://" in result.stderr
    assert not (version_of(networks) / "model.plan").exists()
