"""Embedded in a Quart-Trio app with routes and hooks of its own, under hypercorn's own command."""

import signal
from pathlib import Path
from typing import Any

import pytest


def test_both_kinds_of_routes_and_the_apps_own_hooks(servers: Any, told: Any, tmp_path: Path) -> None:
    server = servers.embedded(tmp_path / "state")
    with server.http() as http:
        # The app's own start-up found the runtime open.
        assert http.get("/hooks").text == "before lab while"
        assert http.post("/upper", content=b"quart").text == "QUART"
        assert http.get("/nothing").status_code == 404
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/readyz").status_code == 200
    client = server.client()
    first = client.responses.create(model="m", input="hello", conversation="kept")
    assert first.output_text == "1: hello"
    with client.responses.stream(model="m", input="streamed", previous_response_id=first.id) as stream:
        assert stream.get_final_response().output_text == "2: streamed"
    server.close_clients()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    # Its shutdown did, too.
    assert [entry["text"] for entry in server.journal() if entry["what"] == "left"] == ["lab"]
    assert "Traceback" not in server.stderr

    again = servers.embedded(tmp_path / "state")
    assert told(again.client(), "again", conversation="kept") == "2: again"


def test_state_survives_sigkill(servers: Any, told: Any, tmp_path: Path) -> None:
    server = servers.embedded(tmp_path / "state")
    told(server.client(), "before", conversation="kept")
    server.kill_all()
    again = servers.embedded(tmp_path / "state")
    assert told(again.client(), "after", conversation="kept") == "2: after"


def test_it_does_not_start_if_the_state_is_owned(servers: Any, told: Any, tmp_path: Path) -> None:
    owner = servers.command(state=tmp_path / "state")
    # In one process, because hypercorn's own parent of workers forgets their exit codes.
    refused = servers.embedded(tmp_path / "state", "--workers", "0", ready=False)
    assert refused.wait() == 1
    first = refused.stderr.splitlines()[0]  # before whatever hypercorn has to say about it
    assert f"owned by process {owner.process.pid}" in first
    assert str(tmp_path / "state") in first
    assert told(owner.client(), "unharmed") == "1: unharmed"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_turn(servers: Any, told: Any, tmp_path: Path, stream: bool) -> None:
    server = servers.embedded(tmp_path / "state")
    with server.post({"input": "forever left", "conversation": "c", "stream": stream}):
        server.happened("start", "forever left")
    server.happened("cancelled", "forever left")
    assert told(server.client(), "history", conversation="c") == []
