"""Items made in a thread ahead of their use, a few at a time."""

from collections.abc import Generator, Iterator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], size: int) -> Generator[T, None, None]:
    """The items, up to `size` of them waiting; what making one raises is raised here.

    Close it where the items are not used up: the thread ends before `close` returns, so that it is
    not at work in native code while the interpreter shuts down.
    """
    room = Semaphore(size)
    stopped = Event()
    waiting: SimpleQueue[T | _Raised | None] = SimpleQueue()

    def make() -> None:
        try:
            for item in items:
                room.acquire()
                if stopped.is_set():
                    return
                waiting.put(item)
            waiting.put(None)
        except BaseException as error:
            waiting.put(_Raised(error))

    thread = Thread(target=make, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, _Raised):
                raise item.error
            room.release()
            yield item
    finally:
        stopped.set()
        room.release()
        thread.join()


class _Raised:
    """What ended the making."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
