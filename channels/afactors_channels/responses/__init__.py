"""The OpenAI Responses API, and its open form, Open Responses 2026-04-24.

The pure half does no I/O. Each module may import those above it.

What comes in:

* `ids`: names of responses, conversations and items.
* `errors`: the protocol's error envelope.
* `fields`: validators of single values, which name the field and the limit.
* `contents`: content parts of a request, as the framework's contents.
* `items`: input items of a request, as the framework's messages.
* `settings`: settings of a request that are more than one plain value.
* `targets`: where a reply goes besides to its caller.
* `parse`: a request's body, validated.
* `listing`: queries, and pages of a list.

What goes out:

* `parts`: how each kind of text in the output is spelt.
* `conversations`: what is asked of conversations, and how they are shown.
* `drafts`: output items that are not finished yet.
* `emission`: output items in their order, and the numbered events about them.
* `calls`: function calls and the approvals that are asked for them, as output items.
* `output`: the framework's updates as output items and the events that announce them.
* `presentation`: what must be kept of a request to show its response again, and a response without output.
* `render`: a finished response as a whole, and the response object of a run in whatever state.
* `events`: one response as a stream of events.
* `sse`: events as bytes.
* `transcript`: one response as the rows of a transcript.
* `frames`: events, errors and requests as WebSocket messages.
* `stored_parts`: the framework's contents, as content parts again.
* `stored_items`: the framework's messages, as items again: a response's input, a conversation's history.
* `compaction`: what is asked of a compaction, and what it answers.
* `schemas`, `request_schemas`, `answer_schemas`, `openapi`: all of it as an OpenAPI document.

The shell, thin, over ASGI:

* `exchange`: who calls, and how they are answered, on every endpoint.
* `creating`, `reading`, `conversing`, `compacting`: the endpoints, by subject.
* `sockets`: the same over WebSockets.
* `channel`: the channel's options, and which endpoint serves what.
"""

from ..wire import decode_body as decode_body
from ..wire import encode_json as encode_json
from .errors import error_body as error_body
from .errors import error_headers as error_headers
from .events import EventStream as EventStream
from .ids import item_id as item_id
from .ids import new_conversation_id as new_conversation_id
from .ids import new_response_id as new_response_id
from .parse import CreateRequest as CreateRequest
from .parse import parse_create as parse_create
from .render import render_response as render_response
from .render import render_run as render_run
from .sse import DONE as DONE
from .sse import encode_event as encode_event
from .sse import sse_data as sse_data
from .transcript import ResponseTranscript as ResponseTranscript
