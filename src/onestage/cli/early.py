"""Ctrl-C, and its like, while Python still imports modules, which takes from a tenth of a second to several: nothing is made
yet that is kept.

The program imports this file before all others, so it imports nothing that takes time.
"""

import os
import signal

DEBUG = "ONESTAGE_DEBUG"
"""If this is set in the environment, an error shows its traceback."""
TOLD = "ONESTAGE_TOLD"
"""As in ``processes``, which imports torch."""
NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Of Ctrl-C, of a request to end, and of a terminal that closes."""


def end(number: int, frame: object) -> None:
    """End this process with the usual word and exit code. An exception would show a traceback of our imports, and libraries
    that are in the middle of theirs would make another error of it.
    """
    try:
        if TOLD in os.environ:
            os.close(os.open(os.environ[TOLD], os.O_CREAT | os.O_EXCL))
        os.write(2, b"error: interrupted\n")
    except OSError:  # another process of the same training has told it, or standard error is closed
        pass
    os._exit(130)


def interrupt(number: int, frame: object) -> None:
    """What ``stop`` lets other signals than Ctrl-C do."""
    raise KeyboardInterrupt


def begin() -> None:
    """From now on, Ctrl-C and its like end this process at once, if nothing else is to happen at them."""
    if os.environ.get(DEBUG):
        return
    for number in NUMBERS:
        if signal.getsignal(number) == (signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL):
            signal.signal(number, end)


def stop() -> None:
    """From now on, they raise KeyboardInterrupt again."""
    for number in NUMBERS:
        if signal.getsignal(number) == end:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else interrupt)


def again() -> None:
    """Take ``stop`` back, for a verb that imports more. In a program that calls a verb, nothing happens."""
    if signal.getsignal(signal.SIGTERM) == interrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == interrupt:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
        begin()
