"""One run at a time in a folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Keep other runs away while this one holds a lock file, whose folder is made if need be.

    Raises FileExistsError when another run holds it. A killed run lets go of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not path.exists():  # it cannot be made
            raise PermissionError(f"{path.parent}: cannot be written to") from None
        raise FileExistsError(f"{path.parent}: another run is writing there (it holds {path.name})") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove an open file
            path.unlink()
        lock.release()
