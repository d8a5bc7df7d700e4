"""Signed webhooks, in and out, with both ends on this machine: a shop that asks, and an agent that answers.

    python examples/webhooks.py [PORT]        (STATE_DIR names the state folder, ./.afactors otherwise)

The shop signs an event and posts it to `/webhooks/shop`. It is on disk when it is answered with 202; the same event
sent again is not taken again. The agent's reply is posted, signed, to the shop's own address, again and again until it
is taken, for three days. The signatures are those of https://www.standardwebhooks.com: there are libraries for most
languages; the shop of this program needs none.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time

import httpx
import trio

from afactors import Runtime
from afactors.demo import create_agent
from afactors_channels import ChannelContext, ChannelContribution, Receive, Route, Scope, Send
from afactors_channels.asgi import header, read_body, send_whole
from afactors_channels.webhook import WebhookChannel, WebhookEndpoint, WebhookSource
from afactors_store import LmdbStore

# Real ones come from your secrets; one for each direction.
TO_US = "whsec_" + base64.b64encode(b"what the shop signs with, 32 byte").decode()
TO_THEM = "whsec_" + base64.b64encode(b"what we sign with for the shop...").decode()


def signature(secret: str, name: str, timestamp: str, body: bytes) -> str:
    """The signature of a message."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{name}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


class Shop:
    """Somebody else's program: here it is a channel, only so that one server serves both."""

    name = "their-shop"

    def __init__(self) -> None:
        self.told, self.replied = trio.Event(), trio.Event()

    def contribute(self, context: ChannelContext) -> ChannelContribution:
        """The shop's own address."""
        return ChannelContribution([Route("POST", "/their/hook", self.hook)])

    async def hook(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take an event, if its signature is right."""
        body = await read_body(receive)
        names = (b"webhook-id", b"webhook-timestamp", b"webhook-signature")
        name, timestamp, signed = (header(scope, each) or "" for each in names)
        genuine = any(hmac.compare_digest(one, signature(TO_THEM, name, timestamp, body)) for one in signed.split())
        await send_whole(send, 204 if genuine else 401, b"")
        event = json.loads(body)
        await self.told.wait()  # the agent may be quicker than what is printed below
        print(f"the shop got {event['type']}, genuine: {genuine}: {event['data']['text']}", flush=True)
        self.replied.set()

    async def tell(self, url: str) -> None:
        """Send an event; and again, as if the answer had been lost."""
        event = {"type": "order.asked", "data": {"text": "What is 6 * 7?", "order": 7, "reply": True}}
        body, name, now = json.dumps(event).encode(), f"msg_{time.time_ns()}", str(int(time.time()))
        stamp = {"webhook-id": name, "webhook-timestamp": now, "webhook-signature": signature(TO_US, name, now, body)}
        async with httpx.AsyncClient(trust_env=False) as client:
            first = await client.post(f"{url}/webhooks/shop", content=body, headers=stamp)
            again = await client.post(f"{url}/webhooks/shop", content=body, headers=stamp)
            forged = await client.post(f"{url}/webhooks/shop", content=body.replace(b"7", b"8"), headers=stamp)
        print(f"accepted: {first.status_code}, the same run again: {first.json() == again.json()}", flush=True)
        print(f"forged: {forged.status_code} {forged.json()['error']['code']}", flush=True)
        self.told.set()


async def main(port: int) -> None:
    """Serve both, let the shop ask once, and end when it has its reply."""
    shop = Shop()
    webhooks = WebhookChannel(
        endpoints=[
            # Plain HTTP and this machine are for a demonstration only; both are refused otherwise.
            WebhookEndpoint(
                "shop", f"http://127.0.0.1:{port}/their/hook", TO_THEM, allow_http=True, allow_private=True
            ),
        ],
        sources=[WebhookSource("shop", TO_US, conversation="data.order", reply_to="shop")],
    )
    runtime = Runtime(
        create_agent,  # your agent's factory
        channels=[webhooks, shop],
        store=LmdbStore(os.environ.get("STATE_DIR", ".afactors")),
    )
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await runtime.serve(port=port, started=lambda url: nursery.start_soon(shop.tell, url))

        nursery.start_soon(serve)
        await shop.replied.wait()
        await runtime.drain()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
