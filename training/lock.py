"""One run at a time in a folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[Path]:
    """Keep other runs out of a folder, which is made if need be; yield the lock's file.

    Raises FileExistsError when another run has it. A killed run lets go of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # between open and lock, the run that had it may have ended and removed the file
            gone = not lock.exists() or not os.path.samestat(os.fstat(file.fileno()), os.stat(lock))
        except BlockingIOError:
            gone = True
        if gone:
            raise FileExistsError(f"{folder}: another run is writing there")
        try:
            yield lock
        finally:
            lock.unlink(missing_ok=True)
