"""The served answers while Triton goes and comes back."""

import time
from pathlib import Path

import httpx

from fakes import encode, make_photo
from triton_server.serving import TritonProcess
from wire.running import PROBLEM_FIELDS, running_service, wait_until

JPEG = encode(make_photo(), ".jpg")


def ask(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/poses", content=JPEG, headers={"content-type": "image/jpeg"})


def test_http_says_unavailable_while_triton_is_down(
    repository: Path, second_triton: TritonProcess, tmp_path: Path
):
    settings = {"backend": "triton", "triton_urls": second_triton.url}
    with (
        running_service(repository, tmp_path / "log", **settings) as service,
        service.client() as client,
    ):
        assert ask(client).status_code == 200
        assert 'posegate_backend_up{backend="triton"} 1.0' in client.get("/metrics").text
        second_triton.kill()
        started = time.monotonic()
        refused = ask(client)
        assert time.monotonic() - started < 1.0
        assert refused.status_code == 503
        assert refused.json().keys() == PROBLEM_FIELDS
        assert refused.json()["type"].endswith("unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        wait_until(lambda: client.get("/readyz").status_code == 503)
        assert second_triton.url in client.get("/readyz").text
        assert client.get("/livez").status_code == 200
        assert 'posegate_backend_up{backend="triton"} 0.0' in client.get("/metrics").text
        second_triton.start()
        wait_until(lambda: client.get("/readyz").status_code == 200)
        assert ask(client).status_code == 200
