"""Threads that do work and stop together: at the first failure, or when the run is interrupted."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERRUPTING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Workers:
    """One kind of work after another, each on as many threads as it is given; `stop` says that they are to end."""

    def __init__(self) -> None:
        self.stop: Final = threading.Event()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None

    def run(
        self, n_threads: int, work: Callable[[], None], *, on_interruption: Callable[[], None] | None = None
    ) -> None:
        """Run work on several threads; a failure, or an interruption, is raised when all have ended.

        on_interruption: what makes them end; by default, `stop` is set.
        """
        ended = [threading.Event() for _ in range(n_threads)]
        interruption: BaseException | None = None
        # Blocked, no signal comes between two threads' starts; and the threads inherit that, so it comes here.
        # Not Thread.join: interrupted, it takes a running thread for ended (CPython issue 89437, until 3.13).
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTING)
        for event in ended:
            threading.Thread(target=self._guarded, args=(work, event), daemon=True).start()
        while not all(event.is_set() for event in ended):
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                for event in ended:
                    event.wait()
            except BaseException as error:  # noqa: BLE001, PERF203 - raised below; a second must not cut the first short
                interruption = interruption or error
                (on_interruption or self.stop.set)()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if interruption is not None:
            raise interruption
        if self._failure is not None:
            raise self._failure

    def _guarded(self, work: Callable[[], None], ended: threading.Event) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            with self._lock:
                self._failure = self._failure or error
            self.stop.set()
        finally:
            ended.set()
