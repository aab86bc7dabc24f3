"""Training in several processes, on gloo over loopback, and training that is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from posenets.training.cache import build_cache
from posenets.training.checkpoint import load_checkpoint
from two_processes import BATCH, STEPS, Halves, train

HERE = Path(__file__).parent
LIMIT_S = 240


def start(rank: int, port: int, *command: object) -> "subprocess.Popen[str]":
    """One of two processes, told what torchrun would tell it."""
    told = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return launch([*command], **{name: str(value) for name, value in told.items()})


def launch(command: list[object], **extra: str) -> "subprocess.Popen[str]":
    paths = os.pathsep.join([str(HERE), *(path for path in sys.path if path)])
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def both(*command: object) -> list[str]:
    """What two processes print that train together."""
    port = free_port()
    processes = [start(rank, port, *command) for rank in (0, 1)]
    printed = [process.communicate(timeout=LIMIT_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    return printed


def short_recipe(folder: Path, *, examples: int, batch: int) -> Path:
    recipe = folder / "short.toml"
    recipe.write_text(
        f'task = "pose"\nnetwork = "posefpn-small"\nexamples = {examples}\n'
        "warmup = 4\nseed = 7\n"
        f"phases = [{{ width = 64, height = 64, share = 1.0, batch = {batch} }}]\n"
    )
    return recipe


def test_two_processes_lose_what_one_with_the_joined_batch_loses(tmp_path: Path) -> None:
    both(HERE.parent / "two_processes.py", tmp_path)
    alone = Halves(1, 0)
    trainer = train(alone, 0, tmp_path / "alone.pt", torch.device("cpu"))

    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert len(alone.losses) == STEPS
    assert first["losses"] == pytest.approx(alone.losses, rel=1e-4)
    assert first == second
    weights = [float(p.detach().double().sum()) for p in trainer.network.parameters()]
    assert first["weights"] == pytest.approx(weights, rel=1e-4, abs=1e-6)
    assert load_checkpoint(tmp_path / "shared.pt")["progress"]["seen"] == STEPS * BATCH


@pytest.mark.slow
def test_train_command_in_two_processes_writes_and_prints_once(
    coco_folder: Path, tmp_path: Path
) -> None:
    build_cache(coco_folder, tmp_path / "cache")
    recipe = short_recipe(tmp_path, examples=24, batch=4)
    arguments = ["--cache", tmp_path / "cache", "--out", tmp_path / "run.pt", "--threads", 1]
    printed = both("-m", "posenets", "train", recipe, *arguments)
    assert "24 examples" in printed[0]
    assert "examples" not in printed[1]
    state = load_checkpoint(tmp_path / "run.pt")
    assert (state["progress"]["seen"], state["progress"]["steps"]) == (24, 3)


def test_two_fresh_processes_train_the_same_weights_to_the_bit(
    coco_folder: Path, tmp_path: Path
) -> None:
    build_cache(coco_folder, tmp_path / "cache")
    recipe = short_recipe(tmp_path, examples=8, batch=4)
    shared = ["-m", "posenets", "train", recipe, "--cache", tmp_path / "cache", "--threads", 1]
    runs = [launch([*shared, "--out", tmp_path / f"{run}.pt"]) for run in ("first", "second")]
    printed = [process.communicate(timeout=LIMIT_S)[0] for process in runs]
    assert [process.returncode for process in runs] == [0, 0], printed
    first, second = (load_checkpoint(tmp_path / f"{run}.pt") for run in ("first", "second"))
    for part in ("network", "ema"):
        assert first[part].keys() == second[part].keys()
        differing = [n for n, value in first[part].items() if not value.equal(second[part][n])]
        assert not differing, part


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
from posenets.training import checkpoint
from posenets.cli import app

saves, sync = 0, os.fsync

def kill_in_the_middle(descriptor):
    global saves
    saves += 1
    if saves == 3:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)

checkpoint.os.fsync = kill_in_the_middle
app()
"""


def test_run_killed_in_a_step_or_in_a_save_goes_on_from_its_last_whole_checkpoint(
    coco_folder: Path, tmp_path: Path
) -> None:
    build_cache(coco_folder, tmp_path / "cache")
    recipe, out = short_recipe(tmp_path, examples=4000, batch=2), tmp_path / "run.pt"
    arguments = ["train", recipe, "--cache", tmp_path / "cache", "--out", out, "--threads", 1]
    often = ["--save-every", 0]

    in_save = launch(["-c", KILLED_WHILE_SAVING, *arguments, *often])
    in_save.communicate(timeout=LIMIT_S)
    assert in_save.returncode == -signal.SIGKILL
    assert (tmp_path / "run.pt.part").exists()
    assert load_checkpoint(out)["progress"]["seen"] > 0
    kept = load_checkpoint(out)["progress"]["seen"]

    in_step = launch(["-m", "posenets", *arguments, *often])
    ends = time.monotonic() + LIMIT_S
    while load_checkpoint(out)["progress"]["seen"] <= kept + 4:
        assert in_step.poll() is None and time.monotonic() < ends
        time.sleep(0.05)
    in_step.kill()
    in_step.communicate(timeout=LIMIT_S)
    further = load_checkpoint(out)["progress"]["seen"]
    assert further > kept

    last = launch(["-m", "posenets", *arguments, "--seconds", 0])
    printed, _ = last.communicate(timeout=LIMIT_S)
    assert f"resumed {out} after {further} examples" in printed.replace("\n", "")
    assert load_checkpoint(out)["progress"]["seen"] == further + 2
