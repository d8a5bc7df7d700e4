"""Signed webhooks, by Standard Webhooks 1.0: events that are sent, and messages that are received.

The pure half does no I/O. Each module may import those above it.

* `signatures`: secrets, and what is signed by them.
* `addresses`: which addresses are anybody's on the internet.
* `events`: what is sent, and how what is received is read.
* `verdicts`: what a receiver's answer means.

The shell, thin:

* `endpoints`: who is sent to, and who may send; what is configured, checked.
* `connecting`: connections that go only where they may (httpcore).
* `delivering`: sends deliveries.
* `receiving`: the endpoint of what is sent to us, over ASGI.
* `channel`: the channel's options, and what it adds to the host.
"""

from .channel import PUSH_POLICY as PUSH_POLICY
from .channel import WebhookChannel as WebhookChannel
from .endpoints import WebhookEndpoint as WebhookEndpoint
from .endpoints import WebhookSource as WebhookSource
