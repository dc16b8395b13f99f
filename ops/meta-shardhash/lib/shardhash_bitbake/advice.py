"""What openembedded-core's sanity check says about OEEquivHash alone, because it looks for that name.

Both are about a server that only this build directory has, while others share the build's output.
"""

from __future__ import annotations

from typing import Any


def find_advice(data: Any) -> list[str]:
    """Warnings about settings that make hash equivalence useless; `data` is BitBake's."""
    server = data.getVar("BB_HASHSERVE") or ""
    if not server.startswith("unix://") or (data.getVar("SHARDHASH_EDGE") or "0") != "0":
        return []
    advice = []
    if data.getVar("SSTATE_MIRRORS") and not data.getVar("BB_HASHSERVE_UPSTREAM"):
        advice.append(
            f"SSTATE_MIRRORS is set, but the hash equivalence server {server} is a local one without "
            "BB_HASHSERVE_UPSTREAM, and does not know the unihashes of what the mirror holds. Set BB_HASHSERVE to the "
            "server that belongs to the mirror, or BB_HASHSERVE_UPSTREAM."
        )
    build = data.getVar("TOPDIR") or ""
    database = data.getVar("BB_HASHSERVE_DB_DIR") or data.getVar("PERSISTENT_DIR") or data.getVar("CACHE") or ""
    shared = data.getVar("SSTATE_DIR") or ""
    own_server = server[len("unix://") :].startswith(build) and database.startswith(build)
    if build and shared and own_server and not shared.startswith(build):
        advice.append(
            f"SSTATE_DIR ({shared}) is shared by builds, but the database of the hash equivalence server lies in this "
            f"build directory ({database}), so that other builds do not find what this one stores. Set BB_HASHSERVE to "
            "a server for all of them, or BB_HASHSERVE_DB_DIR to a directory beside SSTATE_DIR."
        )
    return advice
