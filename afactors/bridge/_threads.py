"""Worker threads for synchronous tools.

``ThreadPoolExecutor`` joins its threads when the interpreter exits, so one tool that never returns
would keep the process alive for ever. These threads are daemons: the bridge waits for them up to its
deadline, and then the process may end without them.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Item = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class ToolThreads(ThreadPoolExecutor):
    """An executor on daemon threads, started when work finds no idle one.

    It inherits from ``ThreadPoolExecutor`` only because asyncio accepts nothing else as the default
    executor of a loop; no thread of the parent class is ever started.

    Attributes:
        ended: Resolves when the executor is shut down and its last thread is gone.
    """

    def __init__(self, limit: int, name: str) -> None:
        super().__init__(limit, thread_name_prefix=name)
        self.ended: Future[None] = Future()
        self._limit = limit
        self._name = name
        self._pid = os.getpid()
        self._wake = threading.Condition()
        self._waiting: deque[_Item] = deque()
        self._alive = 0
        self._idle = 0
        self._started = 0
        self._shut = False

    @property
    def running(self) -> int:
        """How many threads are in a tool now."""
        return self._alive - self._idle

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue ``fn(*args, **kwargs)`` for a thread.

        Raises:
            RuntimeError: The executor was shut down.
        """
        future: Future[T] = Future()
        with self._wake:
            if self._shut:
                raise RuntimeError("cannot schedule new tools after shutdown")
            self._waiting.append((future, fn, args, kwargs))
            # An idle thread that was notified for an earlier item still counts as idle, and so does its
            # item as waiting; only what is left over needs a new thread.
            if self._idle >= len(self._waiting):
                self._wake.notify()
            elif self._alive < self._limit:
                self._start_thread()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; threads end when the queue is empty. With ``wait``, until all have ended."""
        with self._wake:
            self._shut = True
            if cancel_futures:
                for future, *_ in self._waiting:
                    future.cancel()
                self._waiting.clear()
            self._wake.notify_all()
            nobody = self._alive == 0
        if nobody and not self.ended.done():
            self.ended.set_result(None)
        if wait:
            self.ended.result()

    def _start_thread(self) -> None:
        self._started += 1
        thread = threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True)
        self._alive += 1
        self._idle += 1
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads: those at work will take it, if there are any
            self._alive -= 1
            self._idle -= 1
            if not self._alive:
                self._waiting.pop()
                raise

    def _work(self) -> None:
        while (item := self._take()) is not None:
            _perform(self._pid, *item)
            del item  # an idle thread must not keep the last tool's arguments alive
            with self._wake:
                self._idle += 1

    def _take(self) -> _Item | None:
        with self._wake:
            while not self._waiting:
                if self._shut:
                    self._alive -= 1
                    self._idle -= 1
                    last = self._alive == 0
                    break
                self._wake.wait()
            else:
                self._idle -= 1
                return self._waiting.popleft()
        if last and not self.ended.done():
            self.ended.set_result(None)
        return None


def _perform(
    pid: int, future: Future[Any], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    if not future.set_running_or_notify_cancel():
        return
    error: BaseException | None = None
    value = None
    try:
        value = fn(*args, **kwargs)
    except StopIteration as exc:
        # asyncio cannot put a StopIteration into a future; before Python 3.12 its waiter hangs for ever.
        error = RuntimeError("the tool raised StopIteration")
        error.__cause__ = exc
    except BaseException as exc:  # noqa: BLE001 - whatever it is belongs to the caller, as in any executor
        error = exc
    if os.getpid() != pid:
        # The tool forked and let the child run out of it. The child holds the parent's sockets and copies of
        # its locks, and none of its other threads: it can only do harm, or wait for ever.
        os._exit(1)
    if error is not None:
        future.set_exception(error)
        del error  # its traceback refers to this frame
    else:
        future.set_result(value)
