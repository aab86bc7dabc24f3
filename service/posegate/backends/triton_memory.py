"""Memory that this process and a Triton on the same machine both see.

The name of a system region lies in /dev/shm only until Triton has opened it, some milliseconds, so
that a killed gateway leaves nothing there. What a killed gateway had registered stays mapped in
Triton until Triton ends, as nobody else can tell whether the gateway still lives.
"""

import math
import mmap
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from tritonclient.utils import InferenceServerException

from posegate.errors import BadOption
from posegate.types import F32

SharedMemory = Literal["system", "cuda"]

SHM = Path("/dev/shm")  # noqa: S108  the place of POSIX shared memory, not a temporary file
CUDA_DEVICE = 0
"""A Jetson has one GPU; elsewhere CUDA_VISIBLE_DEVICES chooses."""
PROBE_BYTES = 4096
CALL_TIMEOUT_S = 0.5
UNREACHABLE = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED")


class Region(Protocol):
    """One tensor's place, known to one Triton under `name`. OSError: it cannot be made or used."""

    name: str
    byte_size: int

    async def register(self, client: Any, *, timeout_s: float) -> None:
        """Let Triton open it; InferenceServerException says why it does not."""
        ...

    async def unregister(self, client: Any, *, timeout_s: float) -> None:
        """Let Triton close it; a Triton that does not know it agrees."""
        ...

    def write(self, array: F32) -> None:
        """Copy the array to the beginning."""
        ...

    def read(self, dtype: Any, shape: tuple[int, ...]) -> F32:
        """A float32 copy of the array at the beginning."""
        ...

    def free(self) -> None:
        """Give the memory back; Triton must have closed it, or be gone."""
        ...


class SystemRegion:
    """POSIX shared memory."""

    def __init__(self, byte_size: int) -> None:
        self.name = _new_name()
        self.byte_size = byte_size
        self._path = SHM / self.name
        handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            # Without pages of its own, the first write into a full /dev/shm would be a SIGBUS.
            os.posix_fallocate(handle, 0, byte_size)
            self._memory = mmap.mmap(handle, byte_size)
        except BaseException:
            self._path.unlink()
            raise
        finally:
            os.close(handle)

    async def register(self, client: Any, *, timeout_s: float) -> None:
        try:
            await client.register_system_shared_memory(
                self.name, f"/{self.name}", self.byte_size, client_timeout=timeout_s
            )
        finally:
            self._path.unlink()

    async def unregister(self, client: Any, *, timeout_s: float) -> None:
        await client.unregister_system_shared_memory(self.name, client_timeout=timeout_s)

    def write(self, array: F32) -> None:
        np.ndarray(array.shape, array.dtype, buffer=self._memory)[:] = array

    def read(self, dtype: Any, shape: tuple[int, ...]) -> F32:
        return np.ndarray(shape, dtype, buffer=self._memory).astype(np.float32)

    def free(self) -> None:
        self._path.unlink(missing_ok=True)
        self._memory.close()


class CudaRegion:
    """Memory of the GPU, passed on by its CUDA IPC handle.

    CUDA IPC needs JetPack 6 or newer on a Jetson, and a Triton that sees the same GPU under number
    0.
    """

    def __init__(self, byte_size: int) -> None:
        self.name = _new_name()
        self.byte_size = byte_size
        self._cuda = _cuda_shared_memory()
        self._handle = self._called(
            self._cuda.create_shared_memory_region, self.name, byte_size, CUDA_DEVICE
        )

    async def register(self, client: Any, *, timeout_s: float) -> None:
        await client.register_cuda_shared_memory(
            self.name,
            self._cuda.get_raw_handle(self._handle),
            CUDA_DEVICE,
            self.byte_size,
            client_timeout=timeout_s,
        )

    async def unregister(self, client: Any, *, timeout_s: float) -> None:
        await client.unregister_cuda_shared_memory(self.name, client_timeout=timeout_s)

    def write(self, array: F32) -> None:
        self._called(self._cuda.set_shared_memory_region, self._handle, [array])

    def read(self, dtype: Any, shape: tuple[int, ...]) -> F32:
        found = self._called(self._cuda.get_contents_as_numpy, self._handle, dtype, shape)
        array: F32 = found.astype(np.float32, copy=False)
        return array

    def free(self) -> None:
        self._called(self._cuda.destroy_shared_memory_region, self._handle)

    def _called(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except self._cuda.CudaSharedMemoryException as error:
            raise OSError(f"CUDA: {error}") from error


REGIONS: dict[SharedMemory, Callable[[int], Region]] = {
    "system": SystemRegion,
    "cuda": CudaRegion,
}


def check_shared_memory(kind: SharedMemory) -> None:
    """BadOption when this machine has no such memory, whatever Triton would say."""
    try:
        REGIONS[kind](PROBE_BYTES).free()
    # tritonclient says RuntimeError where the CUDA library is absent.
    except (ImportError, RuntimeError, OSError) as error:
        needs = {
            "system": f"a {SHM} that this process may write to",
            "cuda": "an NVIDIA GPU and the library for it: pip install 'tritonclient[grpc,cuda]'",
        }
        raise BadOption(
            f"setting triton_shared_memory: {kind} cannot be used here ({error}); it needs "
            f"{needs[kind]}. Set it to off"
        ) from error


async def refusal(client: Any, kind: SharedMemory, url: str) -> str | None:
    """Why this Triton does not take such memory, None when it does.

    Raises InferenceServerException when it does not answer.
    """
    try:
        region = REGIONS[kind](PROBE_BYTES)
        try:
            await region.register(client, timeout_s=CALL_TIMEOUT_S)
            await region.unregister(client, timeout_s=CALL_TIMEOUT_S)
        finally:
            region.free()
    except OSError as error:
        return f"{kind} shared memory cannot be had here ({error})"
    except InferenceServerException as error:
        if error.status() in UNREACHABLE:
            raise
        return (
            f"{url} refuses {kind} shared memory ({error.message()}): it runs on another machine, "
            f"as another user or in a container that does not share "
            f"{'this /dev/shm' if kind == 'system' else 'this GPU'}; set triton_shared_memory to "
            "off, or let both share it"
        )
    return None


def whole_bytes(dtype: Any, shape: tuple[int, ...]) -> int:
    """Bytes of an array of that type and shape."""
    return math.prod(shape) * int(np.dtype(dtype).itemsize)


def _new_name() -> str:
    return f"posegate-{os.getpid()}-{secrets.token_hex(8)}"


def _cuda_shared_memory() -> Any:
    from tritonclient.utils import cuda_shared_memory

    return cuda_shared_memory
