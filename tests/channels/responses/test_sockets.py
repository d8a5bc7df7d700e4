"""WebSockets: responses one after the other over one connection, and a response's events followed over one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from afactors_channels import HostError, Overloaded, TargetFailed

Read = Callable[[list[dict[str, Any]]], dict[str, Any]]
blocked = trio.testing.wait_all_tasks_blocked


def said(response: dict[str, Any]) -> str:
    words: str = response["output"][0]["content"][0]["text"]
    return words


async def refused(socket: Any, stream_id: str | None = None) -> tuple[int, str | None, str]:
    """Of an error: status, what is at fault, and why."""
    frame = await socket.hear()
    assert frame.keys() == {"type", "status", "error"} | ({"stream_id"} if stream_id else set())
    assert (frame["type"], frame.get("stream_id")) == ("error", stream_id)
    assert frame["error"].pop("message")
    assert frame["error"].keys() == {"type", "param", "code"}
    return frame["status"], frame["error"]["param"], frame["error"]["code"]


async def held(site: Any, **fields: Any) -> str:
    """The id of a response in the background that does not end by itself."""
    site.context.gate = trio.Event()
    response_id: str = await site.create(background=True, **fields)
    await blocked()
    return response_id


# --- creating


@pytest.mark.parametrize("prefix", ["/v1", "/responses/v1"])
async def test_a_response(site: Any, read: Read, prefix: str):
    site.prefix = prefix
    async with site.socket() as socket:
        assert socket.accepted
        socket.say({"input": "Hi", "persona": 1})
        response = read(await socket.hear_out())
    assert said(response) == "Hello there"
    (request,) = site.context.asked
    assert (request.name, request.stream, request.attributes["persona"]) == (response["id"], True, 1)
    assert site.context.protocol_requests == [{"input": "Hi", "persona": 1, "stream": True}]
    assert site.context.left_early == 0


async def test_several_in_a_row(site: Any, read: Read):
    async with site.socket() as socket:
        last = None
        for _ in range(5):
            socket.say({"input": "Hi", "previous_response_id": last})
            response = read(await socket.hear_out())
            assert response["previous_response_id"] == last
            last = response["id"]
    assert len(site.context.runs) == 5


async def test_whoever_hears_the_end_may_ask_at_once(site: Any):
    """Even while the message that told of it is still on its way."""
    async with site.socket() as socket:
        wishes = [{"input": 5}, {"input": "Hi"}, {"input": "Hi"}, {"input": 5}, {"input": "Hi"}]

        async def at_once(frame: dict[str, Any]) -> None:
            if frame["type"] in ("response.completed", "error") and wishes:
                socket.say(wishes.pop(0))
                await blocked()

        socket.on_frame = at_once
        socket.say({"input": "Hi"})
        ends = [(await socket.hear_out())[-1] for _ in range(6)]
    assert [end["type"].removeprefix("response.") for end in ends] == [
        "completed", "error", "completed", "completed", "error", "completed"
    ]  # fmt: skip
    assert {end["error"]["code"] for end in ends if end["type"] == "error"} == {"invalid_type"}


async def test_the_end_of_one_is_not_the_end_of_the_next(site: Any):
    async with site.socket() as socket:

        async def at_once(frame: dict[str, Any]) -> None:
            if frame["type"] == "response.completed":
                site.context.gate = trio.Event()
                socket.say({"input": "Second"})
                await blocked()

        socket.on_frame = at_once
        socket.say({"input": "First"})
        await socket.hear_out()
        await blocked()
        await blocked()  # the first time, both of us were waiting
        socket.say({"input": "Third"})
        while (frame := await socket.hear())["type"] != "error":
            assert frame["type"] != "response.completed"
        assert frame["error"]["code"] == "response_under_way"
    assert [request.input[0]["contents"][0]["text"] for request in site.context.asked] == ["First", "Second"]


async def test_a_client_may_send_bytes(site: Any, read: Read):
    async with site.socket() as socket:
        socket.say(b'{"type": "response.create", "input": "Hi"}')
        assert read(await socket.hear_out())["status"] == "completed"


async def test_one_at_a_time(site: Any, read: Read):
    site.context.gate = trio.Event()
    async with site.socket() as socket:
        socket.say({"input": "Hi"})
        told = [await socket.hear()]
        await blocked()
        socket.say({"input": "Ho"})
        while (frame := await socket.hear())["type"] != "error":
            told.append(frame)
        assert (frame["status"], frame["error"]["code"]) == (409, "response_under_way")
        socket.say({"input": "Ho", "stream_id": "second"})
        assert await refused(socket, "second") == (409, None, "response_under_way")
        site.context.gate.set()
        assert read(told + await socket.hear_out())["status"] == "completed"
        socket.say({"input": "Ho"})
        assert read(await socket.hear_out())["status"] == "completed"
    assert len(site.context.runs) == 2


async def test_lanes(site: Any, read: Read):
    async with site.socket() as socket:
        for lane in ("left", "ri\"ght'"):
            socket.say({"input": "Hi", "stream_id": lane})
            frames = await socket.hear_out()
            assert {frame.pop("stream_id") for frame in frames} == {lane}
            assert read(frames)["status"] == "completed"
        socket.say({"input": "Hi"})
        assert not any("stream_id" in frame for frame in await socket.hear_out())
    assert not any("stream_id" in request.attributes for request in site.context.asked)


FRAMES = [
    ("", None, "invalid_json"),
    ("nonsense", None, "invalid_json"),
    (b"\xff", None, "invalid_json"),
    ("[]", None, "invalid_type"),
    ("{}", "type", "unsupported_value"),
    ('{"type": "response.cancel"}', "type", "unsupported_value"),
    ({"input": "Hi", "background": True}, "background", "unsupported_value"),
    ({"input": "Hi", "generate": False}, "generate", "unsupported_value"),
    ({"input": "Hi", "stream_id": 5}, "stream_id", "invalid_type"),
    ({}, "input", "missing_required_parameter"),
    ({"input": [{"role": "nobody", "content": ""}]}, "input[0].role", "invalid_value"),
    ({"input": "Hi", "previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
]


async def test_bad_frames_leave_the_connection_as_it_is(site: Any, read: Read):
    async with site.socket() as socket:
        for data, field, code in FRAMES:
            socket.say(data)
            assert await refused(socket) == (400, field, code)
        socket.say({"input": 5, "stream_id": "lane"})
        assert await refused(socket, "lane") == (400, "input", "invalid_type")
        socket.say({"input": "Hi"})
        assert read(await socket.hear_out())["status"] == "completed"
    assert len(site.context.runs) == 1


async def test_a_bad_frame_in_the_middle_of_a_response(site: Any, read: Read):
    site.context.gate = trio.Event()
    async with site.socket() as socket:
        socket.say({"input": "Hi"})
        await blocked()
        socket.say("nonsense")
        frames = []
        while (frame := await socket.hear())["type"] != "error":
            frames.append(frame)
        assert frame["error"]["code"] == "invalid_json"
        site.context.gate.set()
        assert read(frames + await socket.hear_out())["status"] == "completed"


async def test_a_refusal(site: Any, read: Read):
    async with site.socket() as socket:
        site.context.refusal = Overloaded("no", code="mailbox_full")
        socket.say({"input": "Hi"})
        assert await refused(socket) == (429, None, "mailbox_full")
        site.context.refusal = None
        socket.say({"input": "Hi"})
        assert read(await socket.hear_out())["status"] == "completed"


async def test_a_run_that_fails(site: Any, read: Read):
    site.context.failure = TargetFailed("The agent failed to answer.", code="strange")
    async with site.socket() as socket:
        socket.say({"input": "Hi"})
        response = read(await socket.hear_out())
        assert (response["status"], response["error"]["code"]) == ("failed", "strange")
        site.context.failure = None
        socket.say({"input": "Hi"})
        assert read(await socket.hear_out())["status"] == "completed"


async def test_a_client_that_leaves_leaves_its_turn(site: Any):
    site.context.gate = trio.Event()
    async with site.socket() as socket:
        socket.say({"input": "Hi"})
        await blocked()
    await blocked()
    assert site.context.left_early == 1
    assert [run.state for run in site.context.runs.values()] == ["cancelled"]


async def test_a_client_that_leaves_at_once(site: Any):
    async with site.socket() as socket:
        socket.leave()
    assert socket.accepted


async def test_a_turn_that_is_to_finish_unseen(site: Any):
    site.open(on_disconnect="finish")
    site.context.gate = trio.Event()
    async with site.socket() as socket:
        socket.say({"input": "Hi"})
        await blocked()
    site.context.gate.set()
    await blocked()
    assert [run.state for run in site.context.runs.values()] == ["completed"]


async def test_a_host_that_stops_closes_what_is_idle(site: Any):
    async with site.socket() as socket:
        socket.say({"input": "Hi"})
        await socket.hear_out()
        await blocked()
        assert socket.close_code is None
        site.context.stops.set()
        await blocked()
        assert socket.close_code == 1012


async def test_a_host_that_stops_first_answers_what_is_under_way(site: Any, read: Read):
    site.context.gate = trio.Event()
    async with site.socket() as socket:
        socket.say({"input": "Hi"})
        await blocked()
        site.context.stops.set()
        await blocked()
        assert socket.close_code is None
        site.context.gate.set()
        assert read(await socket.hear_out())["status"] == "completed"
        await blocked()
        assert socket.close_code == 1012


async def test_who_calls_is_known_from_the_handshake(site: Any):
    site.open(api_keys={"acme": "k"}, trust_isolation_headers=True)
    headers = {"authorization": "Bearer k", "x-agent-user-isolation-key": "u"}
    async with site.socket(headers=headers) as socket:
        socket.say({"input": "Hi"})
        await socket.hear_out()
    (request,) = site.context.asked
    assert request.partition.startswith("acme~")
    assert request.isolation.user_key == "u"


@pytest.mark.parametrize("path", ["/responses", "/responses/resp_1"])
async def test_without_a_key_nobody_is_let_in(site: Any, path: str):
    site.open(api_keys=["k"])
    for headers in ({}, {"authorization": "Bearer wrong"}):
        async with site.socket(path, headers) as socket:
            assert (socket.accepted, socket.close_code) == (False, 1000)


async def test_a_key_of_the_connection_is_none_of_its_requests(site: Any, read: Read):
    site.open(api_keys=["k"])
    async with site.socket(headers={"authorization": "Bearer k", "idempotency-key": "once"}) as socket:
        for text in ("Hi", "Ho"):
            socket.say({"input": text})
            assert read(await socket.hear_out())["status"] == "completed"
    assert len(site.context.runs) == 2


# --- following


async def test_following(site: Any, read: Read):
    response_id = await held(site)
    async with (
        site.socket(f"/responses/{response_id}") as whole,
        site.socket(f"/responses/{response_id}?starting_after=2") as rest,
    ):
        site.context.gate.set()
        events = await whole.hear_out()
        assert await rest.hear_out() == events[3:]
        await blocked()
        assert (whole.close_code, rest.close_code) == (1000, 1000)
    assert said(read(events)) == "Hello there"
    async with site.socket(f"/responses/{response_id}?starting_after={len(events) - 1}") as nothing:
        assert nothing.close_code == 1000


async def test_following_what_begins_again(site: Any):
    response_id = await held(site)
    for name in ("first", "second"):
        async with site.socket(f"/responses/{response_id}") as socket:
            assert (await socket.hear())["type"] == "response.created"
            site.context.begin_again(response_id)
            while (frame := await socket.hear())["type"] != "error":
                pass
            assert (frame["status"], frame["error"]["code"]) == (409, "run_restarted"), name
            await blocked()
            assert socket.close_code == 1000
    async with site.socket(f"/responses/{response_id}?starting_after=1") as socket:
        assert await refused(socket) == (409, "starting_after", "run_restarted")


async def test_following_what_is_put_back(site: Any):
    response_id = await held(site)
    async with site.socket(f"/responses/{response_id}") as socket:
        assert (await socket.hear())["type"] == "response.created"
        site.context.put_back(response_id)
        await blocked()
        assert socket.close_code == 1000


async def test_a_follower_that_leaves_stops_nothing(site: Any):
    response_id = await held(site)
    async with site.socket(f"/responses/{response_id}") as socket:
        socket.say("whatever it says")
        await blocked()
    assert (socket.accepted, socket.close_code) == (True, None)
    site.context.gate.set()
    await blocked()
    assert site.context.run(response_id).state == "completed"


@pytest.mark.parametrize(
    ("store", "path"),
    [
        (True, "resp_1"),
        (False, "{}"),
        (True, "{}?starting_after=x"),
        (True, "{}?include=x"),
        (True, "%00"),
    ],
)
async def test_what_cannot_be_followed_is_not_accepted(site: Any, store: bool, path: str):
    response_id = await site.create(store=store)
    async with site.socket(f"/responses/{path.format(response_id)}") as socket:
        assert (socket.accepted, socket.close_code) == (False, 1000)


async def test_a_transcript_that_is_gone(site: Any):
    response_id = await held(site)
    site.context.run(response_id).log.batches.clear()
    site.context.put_back(response_id, HostError("no", code="gone", status=404))
    async with site.socket(f"/responses/{response_id}") as socket:
        assert await refused(socket) == (404, None, "gone")
        await blocked()
        assert socket.close_code == 1000
