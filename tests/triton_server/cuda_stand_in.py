"""tritonclient's CUDA functions over system shared memory, for machines without a GPU."""

import sys
from types import ModuleType

import pytest
import tritonclient.grpc.aio as triton_client

from posegate.backends.triton_memory import SystemRegion

NAME = "tritonclient.utils.cuda_shared_memory"


def put_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the library, and the calls that would pass a CUDA IPC handle to Triton."""
    module = ModuleType(NAME)
    module.CudaSharedMemoryException = type("CudaSharedMemoryException", (Exception,), {})
    module.create_shared_memory_region = lambda name, byte_size, device: SystemRegion(byte_size)
    module.get_raw_handle = lambda region: region.name.encode()
    module.set_shared_memory_region = lambda region, arrays: region.write(arrays[0])
    module.get_contents_as_numpy = lambda region, dtype, shape: region.read(dtype, shape)
    module.destroy_shared_memory_region = lambda region: region.free()
    monkeypatch.setitem(sys.modules, NAME, module)
    monkeypatch.delattr("tritonclient.utils.cuda_shared_memory", raising=False)

    async def register(self, name, raw_handle, device_id, byte_size, client_timeout):
        await self.register_system_shared_memory(name, f"/{raw_handle.decode()}", byte_size)

    client = triton_client.InferenceServerClient
    monkeypatch.setattr(client, "register_cuda_shared_memory", register)
    monkeypatch.setattr(
        client, "unregister_cuda_shared_memory", client.unregister_system_shared_memory
    )
