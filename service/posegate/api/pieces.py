"""How small the pieces are in which a connection's bytes come."""

MOST_SMALL, LEAST_BYTES = 1000, 32
"""From more pieces in one read on, up to 256 kB, they must have so many bytes each on average: each
takes up to 10 us of the event loop, however few they are."""


class Pieces:
    """The pieces of one read: chunks of a body, or frames of a WebSocket."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget the read before."""
        self._count = self._bytes = 0

    def are_tiny_with(self, piece: bytes | bytearray | memoryview) -> bool:
        """Count one more; whether those of this read are far too many for their bytes."""
        self._count += 1
        self._bytes += len(piece)
        return self._count > MOST_SMALL and self._bytes < LEAST_BYTES * self._count
