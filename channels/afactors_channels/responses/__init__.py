"""The OpenAI Responses API, and its open form, Open Responses 2026-04-24.

The pure half; nothing here does I/O. Each module may import those above it.

* `ids`: names of responses and of their items.
* `errors`: the protocol's error envelope.
* `fields`: validators of single values, which name the field and the limit.
* `contents`: content parts of a request, as the framework's contents.
* `items`: input items of a request, as the framework's messages.
* `settings`: settings of a request that are more than one plain value.
* `parse`: a request's body, validated.
* `parts`: how each kind of text in the output is spelt.
* `drafts`: output items that are not finished yet.
* `output`: the framework's updates as output items and the events that announce them.
* `render`: the response object, and a finished response as a whole.
* `events`: one response as a stream of events.
* `sse`: events as bytes.
"""

from .errors import error_body as error_body
from .errors import error_headers as error_headers
from .events import EventStream as EventStream
from .ids import item_id as item_id
from .ids import new_response_id as new_response_id
from .parse import CreateRequest as CreateRequest
from .parse import decode_body as decode_body
from .parse import parse_create as parse_create
from .render import render_response as render_response
from .render import response_skeleton as response_skeleton
from .sse import DONE as DONE
from .sse import encode_events as encode_events
from .sse import encode_json as encode_json
