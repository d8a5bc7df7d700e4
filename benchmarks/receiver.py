"""The subprocess that takes deliveries: it answers every POST with 204, and looks at nothing.

It prints its URL on its standard output, and stops when its standard input ends.
"""

from __future__ import annotations

import argparse

import trio

from .measure import pin
from .server import input_ended

_ANSWER = b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"
_RECEIVE_BYTES = 65536


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, help="the core to run on")
    pin(parser.parse_args().core)
    trio.run(_serve)


async def _serve() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=128)
        nursery.start_soon(trio.serve_listeners, _handle, [listener])
        print(f"http://127.0.0.1:{listener.socket.getsockname()[1]}", flush=True)
        await input_ended()
        nursery.cancel_scope.cancel(reason="the receiver was stopped")


async def _handle(stream: trio.SocketStream) -> None:
    received = bytearray()
    try:
        async with stream:
            while more := await stream.receive_some(_RECEIVE_BYTES):
                received += more
                while size := _whole(received):
                    del received[:size]
                    await stream.send_all(_ANSWER)
    except trio.BrokenResourceError:
        pass  # whoever sent is gone


def _whole(received: bytearray) -> int:
    """How long the first request is; 0 if it is not there yet."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return 0
    _, _, rest = bytes(received[:end]).lower().partition(b"\r\ncontent-length:")
    size = end + 4 + int(rest.partition(b"\r\n")[0] or 0)
    return size if len(received) >= size else 0


if __name__ == "__main__":
    main()
