"""One trainer a run folder."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from pathlib import Path


class FolderLock:
    """Keeps other processes from working in a folder until `release`, or until this process ends, however it ends.

    Arguments:
        wanted: what is expected of the folder, for the error.

    Raises ValueError, naming the other process, where another holds the folder.
    """

    def __init__(self, folder: Path, wanted: str = "a run folder that nobody trains in") -> None:
        # Not inherited by worker processes, so that it goes with the process that trains.
        self._file = open(folder / ".lock", "a+")  # noqa: SIM115 (open for as long as it is held)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise ValueError(f"expected {wanted} (got {folder}, held by {holder})") from error
        except OSError as error:
            # Some network file systems have no locks: there the folder is used as it is.
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                self._file.close()
                raise
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {platform.node()}\n")
        self._file.flush()

    def release(self) -> None:
        """Lets others in; the file stays, as one that is deleted could be held twice."""
        self._file.close()
