"""The requests that are not about locks: one file for each kind of thing that is asked."""

from __future__ import annotations

from locklane_server.request import Requests

from . import download, presence, removal, upload

REQUESTS: Requests = {
    **presence.REQUESTS,
    **removal.REQUESTS,
    **download.REQUESTS,
    **upload.REQUESTS,
}
"""Every one of them, by method and name."""
