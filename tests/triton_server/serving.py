"""A real Triton from the nvidia-pytriton wheel, in a process of its own, on loopback.

`make test-deploy` puts the wheel and numpy 1 into `.venv-triton`; another interpreter that has
them is named by TRITON_PYTHON.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from posegate.backends.triton_config import render_config
from posegate.catalog import load_catalog

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("TRITON_PYTHON", ROOT / ".venv-triton" / "bin" / "python"))
START_LIMIT_S = 90.0


def triton_folder() -> Path | None:
    """Where the wheel put the server, None where it is not installed."""
    found = sorted(PYTHON.parent.parent.glob("lib/python3.11/site-packages/pytriton/tritonserver"))
    return found[0] if found else None


def make_backends(folder: Path) -> Path:
    """A backend folder of our own: the Python backend and the stub of this interpreter."""
    server = triton_folder()
    assert server is not None
    target = folder / "backends" / "python"
    shutil.copytree(server / "backends" / "python", target)
    stub = server / "python_backend_stubs" / "3.11" / "triton_python_backend_stub"
    shutil.copy2(stub, target / stub.name)
    return target.parent


def add_plan_backends(backends: Path) -> Path:
    """Stand-ins for the backends that Triton takes for `model.plan` and for `model.onnx`."""
    for name in ("tensorrt", "onnxruntime"):
        (backends / name).mkdir()
        shutil.copy2(Path(__file__).with_name("plan_backend.py"), backends / name / "model.py")
    return backends


def make_triton_repository(
    repository: Path, folder: Path, *, change: Callable[[str], str] = lambda config: config
) -> Path:
    """The same networks in Triton's form, run by the Python backend; `change` edits configs."""
    target = folder / "triton_repository"
    for model in load_catalog(repository).models.values():
        for form in filter(None, (model, model.decoded)):
            version = target / form.name / "1"
            version.mkdir(parents=True)
            (target / form.name / "config.pbtxt").write_text(change(render_config(form)))
            shutil.copy2(Path(__file__).with_name("served_model.py"), version / "model.py")
            shutil.copy2(form.onnx_path, target / form.name / "network.onnx")
    return target


class TritonProcess:
    """One server, alive inside `with`; `kill`, `hang`, `wake` and `start` it on the same ports."""

    def __init__(self, repository: Path, backends: Path, log: Path, *arguments: str) -> None:
        self._repository, self._backends, self._log = repository, backends, log
        self._arguments = arguments
        self._http, self._grpc, self._metrics = (free_port() for _ in range(3))
        self._process: subprocess.Popen[bytes] | None = None
        self._region = f"posegate_test_{os.getpid()}_{self._grpc}_"
        self.url = f"127.0.0.1:{self._grpc}"

    def __enter__(self) -> "TritonProcess":
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, *, wait: bool = True) -> None:
        server = triton_folder()
        assert server is not None
        libraries = sorted(server.parents[1].glob("nvidia_pytriton.libs"))
        environment = {
            "PATH": f"{PYTHON.parent}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        }
        command = [
            server / "bin" / "tritonserver",
            f"--model-repository={self._repository}",
            f"--backend-directory={self._backends}",
            f"--backend-config=python,shm-region-prefix-name={self._region}",
            "--http-address=127.0.0.1",
            f"--http-port={self._http}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self._grpc}",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={self._metrics}",
            "--disable-auto-complete-config",
            "--exit-on-error=false",
            *self._arguments,
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        if wait:
            self.wait_until_live()

    def wait_until_live(self) -> None:
        ends = time.monotonic() + START_LIMIT_S
        while not (self.answers("v2/health/live") and self.answers("metrics", self._metrics)):
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            assert time.monotonic() < ends, self._log.read_text()[-3000:]
            time.sleep(0.05)

    def answers(self, path: str, port: int | None = None) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port or self._http}/{path}", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=5) as page:
            return page.read().decode()

    def hang(self) -> None:
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to the server and to its stubs; the memory they shared is taken away."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None
        for left in Path("/dev/shm").glob(f"{self._region}*"):
            left.unlink()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)


def figure(metrics: str, name: str, model: str) -> float:
    """One of the server's figures about a network."""
    (line,) = [row for row in metrics.splitlines() if row.startswith(f'{name}{{model="{model}"')]
    return float(line.rsplit(" ", 1)[1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
