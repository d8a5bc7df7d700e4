"""Whatever a connection does, it is that connection's trouble: the server goes on."""

import contextlib
import json
import socket
import subprocess
from typing import Any

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded

HEAD = b"POST /v1/responses HTTP/1.1\r\nhost: x\r\n"
GARBAGE = {
    "nothing": b"",
    "no-http": b"\x00\x01\x02 hello\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "long-header": b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
    "bad-length": HEAD + b"content-length: -5\r\n\r\n{}",
    "two-lengths": HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "bad-chunk": HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "cut-chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n{",
    "cut-body": HEAD + b'content-length: 100\r\n\r\n{"input":',
    "no-path": b"GET  HTTP/1.1\r\nhost: x\r\n\r\n",
    "bad-target": b"GET http://[::1 HTTP/1.1\r\nhost: x\r\n\r\n",
    "old": b"GET /healthz HTTP/1.0\r\n\r\n",
    "options": b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    "connect": b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n",
    "websocket": b"GET /v1/responses HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "bad-websocket": b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "h2c": HEAD + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
    "bad-h2c": HEAD + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: ????\r\n\r\n",
    "h2-garbage": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    "pipelined": b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 3,
}


@pytest.fixture(scope="module")
def server(module_servers: Any) -> Any:
    return module_servers.command("--api-key", "sesame")


def connect(server: Any) -> socket.socket:
    host, _, port = server.root.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def check_unharmed(server: Any) -> None:
    assert server.process.poll() is None, server.stderr[-2000:]
    assert httpx.get(f"{server.root}/healthz", trust_env=False, timeout=20).status_code == 200


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage(server: Any, name: str) -> None:
    with connect(server) as wire:
        wire.sendall(GARBAGE[name])
        wire.settimeout(0.3)
        try:
            while wire.recv(65536):
                pass
        except (TimeoutError, ConnectionError):
            pass
    check_unharmed(server)


def test_connections_that_are_reset_at_any_point(server: Any) -> None:
    """With a reset (not a friendly close) after every so many bytes of a request."""
    body = json.dumps({"input": "slowly 0.05 reset", "stream": True}).encode()
    whole = HEAD + b"authorization: Bearer sesame\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    for length in range(0, len(whole) + 1, 10):
        with connect(server) as wire:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            wire.sendall(whole[:length])
    check_unharmed(server)


def http2(server: Any, wire: socket.socket) -> H2Connection:
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    headers = [(":method", "POST"), (":path", "/v1/responses"), (":scheme", "http"), (":authority", "x")]
    connection.send_headers(1, headers)
    wire.sendall(connection.data_to_send())
    return connection


def read_to_the_end_of_the_stream(connection: H2Connection, wire: socket.socket) -> bytes:
    got = b""
    while True:
        received = wire.recv(65536)
        if not received:
            raise ConnectionError("the server closed the connection")
        for event in connection.receive_data(received):
            if isinstance(event, DataReceived):
                got += event.data
            if isinstance(event, StreamEnded):
                return got


def test_http2_data_after_the_answer(servers: Any) -> None:
    """Without a key the answer is there before the body is, and ends the stream; data comes after it all the same."""
    server = servers.command("--api-key", "sesame")
    for _ in range(40):
        with connect(server) as wire, contextlib.suppress(ConnectionError):
            connection = http2(server, wire)
            for _ in range(60):
                connection.send_data(1, b"late" * 100)
                wire.sendall(connection.data_to_send())
            assert b"invalid_api_key" in read_to_the_end_of_the_stream(connection, wire)
        check_unharmed(server)


def test_http2_whole_turns(lab: Any, told: Any) -> None:
    with connect(lab) as wire:
        connection = http2(lab, wire)
        connection.send_data(1, b'{"input": "over two", "conversation": "h2"}', end_stream=True)
        wire.sendall(connection.data_to_send())
        response = json.loads(read_to_the_end_of_the_stream(connection, wire))
    assert response["output"][0]["content"][0]["text"] == "1: over two"
    assert told(lab.client(), "and one", conversation="h2") == "2: and one"


def test_http2_stream_that_is_reset_cancels_its_turn(lab: Any) -> None:
    with connect(lab) as wire:
        connection = http2(lab, wire)
        connection.send_data(1, b'{"input": "forever two"}', end_stream=True)
        wire.sendall(connection.data_to_send())
        lab.happened("start", "forever two")
        connection.reset_stream(1)
        wire.sendall(connection.data_to_send())
        lab.happened("cancelled", "forever two")
    check_unharmed(lab)


def test_a_stream_that_nobody_reads_holds_up_nobody(servers: Any, told: Any) -> None:
    """A client that stops reading is held up itself; the others are not, and the memory stays."""
    server = servers.hosted(turn_timeout=3.0)
    with server.post({"input": "flood", "conversation": "flood", "stream": True}):
        server.happened("start", "flood")
        for number in range(5):
            assert told(server.client(), f"beside {number}") == f"1: beside {number}"
        server.happened("cancelled", "flood")  # at its turn's timeout
    assert told(server.client(), "history", conversation="flood") == []


def test_curl_with_a_large_body(lab: Any, tmp_path: Any) -> None:
    """Three megabytes: curl asks with `Expect: 100-continue` first."""
    body = tmp_path / "body"
    body.write_text(json.dumps({"input": "y" * 3_000_000}))
    command = ["curl", "-s", "-m", "60", "-H", "expect: 100-continue", "--data-binary", f"@{body}"]
    try:
        done = subprocess.run([*command, f"{lab.base_url}/responses"], capture_output=True, text=True, timeout=90)
    except FileNotFoundError:
        pytest.skip("curl is not installed")
    assert json.loads(done.stdout)["output"][0]["content"][0]["text"] == "1: " + "y" * 3_000_000
