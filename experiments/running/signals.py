"""How a run meets SIGINT, SIGTERM and SIGHUP: it saves and leaves, or leaves at once."""

from collections.abc import Iterator
import contextlib
import os
import signal
import threading

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal has asked the run to stop: nothing that mends errors may catch it.

    Args:
      number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Signals:
    """Turns the first signal into `Stopped`; a second one leaves at once.

    They are deferred but within `immediate`. A context for the main thread, where alone
    Python lets signals be handled; in others it does nothing. The second signal is met
    by a thread, since the main one may be within a compiled program.
    """

    def __init__(self):
        self.received = 0  # The number of the first signal.
        self._defers = True

    def __enter__(self) -> "Signals":
        self._handles = threading.current_thread() is threading.main_thread()
        if self._handles:
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            # Whoever started the run may have had some ignored, as nohup does.
            met = [s for s in _SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]
            self._before = {s: signal.signal(s, self._handle) for s in met}
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        if self._handles:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._write)  # Which ends the thread.

    def _handle(self, number: int, frame) -> None:
        self.received = number
        if not self._defers:
            raise Stopped(number)

    def _watch(self) -> None:
        """Reads the number of each signal as soon as it comes, until the pipe closes."""
        seen = 0
        while number := os.read(self._read, 1):
            seen += number[0] in _SIGNALS
            if seen == 2:
                os._exit(128 + number[0])
        os.close(self._read)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it a signal is noted, and raises nothing."""
        before, self._defers = self._defers, True
        try:
            yield
        finally:
            self._defers = before

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """Within it, inside of `deferred`, a signal raises `Stopped` again."""
        before, self._defers = self._defers, False
        try:
            self.check()
            yield
        finally:
            self._defers = before

    def check(self) -> None:
        """Raises what a deferred signal asked for."""
        if self.received:
            raise Stopped(self.received)
