"""What the system says of a disk, in the repository's own errors."""

from __future__ import annotations

import errno

from locklane_server.repository import NoSpace, RepositoryError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_error(what: str, error: OSError) -> RepositoryError:
    """The repository's error for one of the system's."""
    if error.errno in _NO_SPACE:
        return NoSpace(f"{what}: {error.strerror}; free some space, and try again")
    return RepositoryError(f"{what}: {error.strerror or error}")
