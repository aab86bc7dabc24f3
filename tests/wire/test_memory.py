"""Memory of the service over many different requests."""

import itertools

import pytest

from fakes import encode, make_photo
from wire.running import Service

WARM_UP, MEASURED = 150, 300
MAX_GROWTH_BYTES = 20 * 2**20


@pytest.mark.slow
def test_memory_does_not_grow_over_varied_requests(service: Service):
    sizes = [(64, 48), (320, 240), (640, 480), (1280, 720)]
    photos = [
        encode(make_photo(width=width, height=height, seed=seed), extension)
        for seed, ((width, height), extension) in enumerate(
            itertools.product(sizes, (".jpg", ".png", ".webp"))
        )
    ]
    queries = ["", "?format=coco", "?boxes=[[5,5,30,40]]", "?flip_test=true", "?min_score=x"]
    requests = itertools.cycle(itertools.product([*photos, b"broken", photos[0][:200]], queries))
    with service.client() as client:

        def send(count: int) -> None:
            for number, (photo, query) in enumerate(itertools.islice(requests, count)):
                accept = "image/jpeg" if number % 7 == 0 else "*/*"
                headers = {"accept": accept}
                response = client.post(f"/v1/poses{query}", content=photo, headers=headers)
                assert response.status_code in (200, 415, 422)

        send(WARM_UP)
        before = service.rss_bytes()
        send(MEASURED)
        assert service.rss_bytes() - before < MAX_GROWTH_BYTES
        assert service.rss_bytes() < 500 * 2**20
