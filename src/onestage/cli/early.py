"""Ctrl-C while Python still imports modules, which takes from a tenth of a second to several: nothing is made yet that is kept.

The program imports this file before all others, so it imports nothing that takes time.
"""

import os
import signal

DEBUG = "ONESTAGE_DEBUG"
"""If this is set in the environment, an error shows its traceback."""
TOLD = "ONESTAGE_TOLD"
"""As in ``processes``, which imports torch."""


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


def begin() -> None:
    """From now on, Ctrl-C ends this process at once, if it would raise KeyboardInterrupt otherwise."""
    if not os.environ.get(DEBUG) and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def stop() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) == end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
