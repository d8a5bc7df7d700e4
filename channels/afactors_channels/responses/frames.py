"""WebSocket messages: what a client sends, and what it is sent.

Source: openai-python 3.52 (`client.responses.connect()`, `ResponsesClientEvent`, `ResponsesServerEvent`). A request's
fields stand beside the message's `type`. Events are those of a stream, without its framing; nothing marks the end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from afactors_channels.errors import HostError

from ..wire import decode_body, encode_json
from .errors import error_body
from .fields import identifier, refuse
from .sse import sse_data

CREATE = "response.create"


class CreateFrame(NamedTuple):
    """A client's wish for a response.

    Attributes:
        body: What would be the body of a `POST /responses` that streams.
        stream_id: The client's name for the lane of this response, if it uses lanes: every event repeats it.
    """

    body: dict[str, Any]
    stream_id: str | None = None


def parse_frame(data: str | bytes) -> CreateFrame:
    """A client's message.

    Raises:
        BadRequest: It is not a JSON object, of another type, or asks for what a connection cannot do.
    """
    frame = decode_body(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    if frame.pop("type", None) != CREATE:
        refuse("type", f"must be '{CREATE}'", "unsupported_value")
    if frame.pop("background", None):
        refuse("background", "must not be true over a WebSocket", "unsupported_value")
    # It asks for no output; who is given some nevertheless did not want it, and pays for it.
    if frame.pop("generate", True) is False:
        refuse("generate", "must not be false, which is not supported", "unsupported_value")
    stream_id = frame.pop("stream_id", None)
    if stream_id is not None:
        identifier(stream_id, "stream_id")
    frame["stream"] = True
    return CreateFrame(frame, stream_id)


def event_frame(row: bytes, stream_id: str | None = None) -> bytes:
    """An event as a message.

    Args:
        row: The event as a stream has it: a transcript's row.
        stream_id: The lane of its response.
    """
    data = sse_data(row)
    return data if stream_id is None else b'%b,"stream_id":%b}' % (data[:-1], encode_json(stream_id))


def error_frame(error: HostError, stream_id: str | None = None) -> bytes:
    """An error as a message."""
    lane = {} if stream_id is None else {"stream_id": stream_id}
    return encode_json({"type": "error", "status": error.status, **error_body(error), **lane})
