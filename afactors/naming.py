"""How an actor's documents are named. Pure."""

from __future__ import annotations

import hashlib

from afactors_store import MAX_NAME_BYTES


def document_name(session_id: str, kind: str = "session") -> str:
    """The document that holds a session's point (or its labels); a session id of any length has one."""
    name = f"{kind}/{session_id}"
    if len(name.encode(errors="surrogatepass")) <= MAX_NAME_BYTES:
        return name
    return f"{kind}#{hashlib.sha256(session_id.encode(errors='surrogatepass')).hexdigest()}"
