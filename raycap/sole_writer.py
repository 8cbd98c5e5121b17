"""One run at a time on an output. Knows neither Ray nor TensorFlow."""

import fcntl
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from raycap.errors import ConflictError
from raycap.locations import join
from raycap.progress import say
from raycap.storage import delete_file, delete_temporary_files, exists, local_path, read_text, write_text

LOCK_FILE = ".raycap-lock"
# Where there are no locks, a run says that it is alive by writing a file anew; one that has not done so for a few times
# is dead. Nothing compares the clocks of two machines.
_BEAT_S = 5.0
_BEATS_OF_THE_LIVING = 3
# Of two that begin at once the last to write is the one; the other sees it after this share of a beat.
_TO_BE_SURE = 0.5


@contextmanager
def sole_writer(out: str) -> Iterator[None]:
    """Keep other runs off an output folder while the block runs; before and after, remove what killed writers left.

    On a local or network filesystem this is a lock of the operating system's, which ends with the process that holds
    it, however it ends. On an object store it is a file that the run writes anew every few seconds; a run that finds
    one of another's watches it for 15 seconds, and goes on if that one has stopped writing it. Where no file can be
    written, and on a filesystem without locks, there is no lock.

    Raises:
        ConflictError: if another run is writing there; or, on an object store, if another one took this one for dead:
            the block is ended where it is, or told at its end where it does not run in the main thread.
    """
    folder = local_path(out)
    with _locked(folder, out) if folder is not None else _beating(out):
        delete_temporary_files(out)
        yield
        delete_temporary_files(out)  # of workers that were killed meanwhile, and whose work others did again


def _busy(out: str, who: str | None) -> ConflictError:
    return ConflictError(
        f"another run is writing {out} ({who or 'which has just begun'}); wait until it ends, or give another --out"
    )


@contextmanager
def _locked(folder: str, out: str) -> Iterator[None]:
    path = os.path.join(folder, LOCK_FILE)
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor = _open_locked(path)
    except BlockingIOError:
        raise _busy(out, _read(path)) from None
    except OSError:  # a folder that is only read, a file in its place, a filesystem without locks
        yield
        return
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, _me().encode())
        yield
    finally:
        with suppress(OSError):
            os.remove(path)  # still locked: who has opened it meanwhile finds that it is gone
        os.close(descriptor)


def _open_locked(path: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the run that held it removed it after it was opened here


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


class _TakenOver(BaseException):
    """Another run took this one for dead; nothing on the way should catch it, as with KeyboardInterrupt."""


@contextmanager
def _ended_by_signal() -> Iterator[Callable[[], None]]:
    """Yield what raises `_TakenOver` in the block, called from another thread; nothing where this is no main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def end(*_: object) -> None:
        raise _TakenOver

    # not SIGINT, which is a person's, and ignored by what a script has started in the background
    was, main = signal.signal(signal.SIGUSR2, end), threading.get_ident()
    try:
        yield lambda: signal.pthread_kill(main, signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, was)


@contextmanager
def _beating(out: str) -> Iterator[None]:
    location, token = join(out, LOCK_FILE), uuid.uuid4().hex
    stop, displaced = threading.Event(), threading.Event()
    holder = _read(location)
    if holder is not None:
        say(f"a run has written {out} and may be still; looking for {_BEAT_S * _BEATS_OF_THE_LIVING:.0f} s if it is")
        time.sleep(_BEAT_S * _BEATS_OF_THE_LIVING)
        now = _read(location)
        if now not in {None, holder}:
            raise _busy(out, _who(now))

    def write(beat: int) -> None:
        write_text(location, json.dumps({"who": _me(), "token": token, "beat": beat}))

    def is_mine() -> bool:
        return token in (_read(location) or "")

    def go_on() -> None:
        beat = 0
        while not stop.wait(_BEAT_S):
            with suppress(OSError):  # one beat that fails is none too few
                if not is_mine():
                    displaced.set()
                    end_block()
                    return
                beat += 1
                write(beat)

    write(0)
    time.sleep(_BEAT_S * _TO_BE_SURE)
    if not is_mine():
        raise _busy(out, None)
    try:
        with _ended_by_signal() as end_block:
            thread = threading.Thread(target=go_on, daemon=True)
            thread.start()
            try:
                yield
                if displaced.is_set() or not is_mine():
                    raise _TakenOver
            finally:
                stop.set()
                thread.join()
                with suppress(OSError):
                    if is_mine():
                        delete_file(location)
    except _TakenOver:
        taken = f"another run took over {out} while this one stood still; run the same command again"
        raise ConflictError(taken) from None


def _read(location: str) -> str | None:
    try:
        return read_text(location) if exists(location) else None
    except FileNotFoundError:
        return None


def _who(content: str) -> str | None:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(content)["who"])
    return None


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
