"""Many connections at once: none refused, none hung."""

import json
from typing import Any

import trio

CONNECTIONS = 300


async def exchange(port: int, conversation: str, start: trio.Event, answers: dict[str, Any]) -> None:
    body = json.dumps({"input": "hello", "conversation": conversation}).encode()
    head = b"POST /v1/responses HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    await start.wait()
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(head + body)
        received = b"".join([part async for part in stream])
    status, _, rest = received.partition(b"\r\n")
    answers[conversation] = (status, json.loads(rest.partition(b"\r\n\r\n")[2]))


async def test_a_burst_of_connections(lab: Any) -> None:
    port = int(lab.root.rpartition(":")[2])
    for burst in range(2):  # the second finds its conversations
        answers: dict[str, Any] = {}
        start = trio.Event()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(CONNECTIONS):
                    nursery.start_soon(exchange, port, f"burst-{number}", start, answers)
                start.set()
        assert len(answers) == CONNECTIONS
        for status, response in answers.values():
            assert status == b"HTTP/1.1 200 "
            assert response["output"][0]["content"][0]["text"] == f"{burst + 1}: hello"
