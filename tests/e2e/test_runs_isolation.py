"""Two keys, two worlds: what belongs to one is to the other as if it had never been. And trusted platforms' headers."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

ADA, BOB = "key-of-ada", "key-of-bob"
UNKNOWN = "resp_" + "0" * 48
USER, CHAT = "x-agent-user-isolation-key", "x-agent-chat-isolation-key"


@pytest.fixture(scope="module")
def guarded(module_servers: Any) -> Any:
    """A server that wants a key."""
    return module_servers.command("--api-key", ADA, "--api-key", BOB)


@pytest.fixture(scope="module")
def trusting(module_servers: Any) -> Any:
    """A server behind a platform that says for whom it calls."""
    return module_servers.hosted(channel={"trust_isolation_headers": True})


@pytest.fixture(scope="module")
def ada(guarded: Any) -> openai.OpenAI:
    return guarded.client(api_key=ADA)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def bob(guarded: Any) -> openai.OpenAI:
    return guarded.client(api_key=BOB)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def wire(guarded: Any) -> Iterator[httpx.Client]:
    """Bob's own HTTP client."""
    headers = {"authorization": f"Bearer {BOB}"}
    with httpx.Client(base_url=guarded.base_url, headers=headers, trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def adas(guarded: Any, ada: openai.OpenAI, until: Any) -> dict[str, str]:
    """Ada's responses, one in every state that there is."""
    made = {
        "completed": ada.responses.create(model="m", input="completed").id,
        "in a conversation": ada.responses.create(model="m", input="said", conversation="private").id,
        "not stored": ada.responses.create(model="m", input="not stored", store=False).id,
        "incomplete": ada.responses.create(model="m", input="shape cut", background=True).id,
        "failed": ada.responses.create(model="m", input="fail", background=True).id,
        "cancelled": ada.responses.create(model="m", input="forever cancelled", background=True).id,
        "in_progress": ada.responses.create(model="m", input="forever busy", background=True, conversation="busy").id,
        "queued": ada.responses.create(model="m", input="waiting", background=True, conversation="busy").id,
    }
    with ada.responses.create(model="m", input="streamed", background=True, stream=True) as stream:
        made["streamed"] = next(iter(stream)).response.id
    ada.responses.cancel(made["cancelled"])
    guarded.happened("start", "forever busy")
    for state in ("completed", "incomplete", "failed", "cancelled", "in_progress", "queued"):
        found = made[state]
        until(lambda found=found, state=state: ada.responses.retrieve(found).status == state, f"one is {state}")
    return made


STATES = ["completed", "in a conversation", "not stored", "incomplete", "failed", "cancelled", "in_progress"]
STATES += ["queued", "streamed"]


def shown(answer: httpx.Response) -> tuple[int, Any, dict[str, str]]:
    """What a caller can see of an answer, but for what is different every time."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id")}
    return answer.status_code, answer.text, headers


def ways(wire: httpx.Client, response_id: str) -> list[httpx.Response]:
    """Everything that can be asked with a response's id."""
    path = f"/responses/{response_id}"
    more: list[dict[str, Any]] = [{}, {"stream": True}, {"background": True}, {"background": True, "stream": True}]
    return [
        wire.get(path),
        wire.get(path, params={"stream": "true"}),
        wire.get(path, params={"stream": "true", "starting_after": 2}),
        wire.get(f"{path}/input_items"),
        wire.get(f"{path}/input_items", params={"after": "msg_1"}),
        wire.post(f"{path}/cancel"),
        wire.delete(path),
        *(wire.post("/responses", json={"input": "hi", "previous_response_id": response_id, **each}) for each in more),
        wire.post("/responses/compact", json={"model": "m", "input": "hi", "previous_response_id": response_id}),
    ]


@pytest.mark.parametrize("state", STATES)
def test_a_response_of_another_key(wire: httpx.Client, adas: dict[str, str], ada: openai.OpenAI, state: str) -> None:
    theirs, unknown = ways(wire, adas[state]), ways(wire, UNKNOWN)
    assert [answer.status_code for answer in theirs] == [404] * 7 + [400] * 5
    codes = [answer.json()["error"]["code"] for answer in theirs]
    assert codes == ["response_not_found"] * 7 + ["previous_response_not_found"] * 5
    assert [shown(answer) for answer in theirs] == [shown(answer) for answer in unknown]
    # … and to its owner nothing has happened.
    if state != "not stored":
        expected = {"in a conversation": "completed", "streamed": "completed"}.get(state, state)
        assert ada.responses.retrieve(adas[state]).status == expected
        assert len(list(ada.responses.input_items.list(adas[state]))) == 1


def test_their_owner_can_continue_them(adas: dict[str, str], ada: openai.OpenAI, told: Any) -> None:
    assert told(ada, "go on", previous_response_id=adas["completed"]) == "2: go on"


@pytest.mark.parametrize("state", STATES)
def test_following_by_websocket(guarded: Any, adas: dict[str, str], state: str) -> None:
    def refusal(response_id: str, **headers: str) -> tuple[int, bytes]:
        address = f"{guarded.base_url.replace('http', 'ws')}/responses/{response_id}?starting_after=0"
        with pytest.raises(InvalidStatus) as caught:
            connect(address, additional_headers=headers, proxy=None)
        return caught.value.response.status_code, caught.value.response.body or b""

    theirs = refusal(adas[state], authorization=f"Bearer {BOB}")
    assert theirs == refusal(UNKNOWN, authorization=f"Bearer {BOB}")
    assert theirs[0] == 404
    assert json.loads(theirs[1])["error"]["code"] == "response_not_found"
    assert refusal(adas[state])[0] == 401


def test_continuing_by_websocket(bob: openai.OpenAI, adas: dict[str, str]) -> None:
    with bob.responses.connect() as connection:
        errors = []
        for response_id in (adas["completed"], adas["streamed"], UNKNOWN):
            connection.response.create(model="m", input="hi", previous_response_id=response_id)
            errors.append(connection.recv().to_dict())
    assert errors[0] == errors[1] == errors[2]
    assert errors[0]["error"]["code"] == "previous_response_not_found"


def test_conversations_of_another_key(
    wire: httpx.Client, ada: openai.OpenAI, bob: openai.OpenAI, told: Any, adas: dict[str, str]
) -> None:
    made = ada.conversations.create(metadata={"whose": "ada"}, items=[{"role": "user", "content": "mine"}])
    (item,) = ada.conversations.items.list(made.id)

    def every(name: str, item_id: str) -> list[httpx.Response]:
        path = f"/conversations/{name}"
        return [
            wire.get(path),
            wire.post(path, json={"metadata": {"whose": "bob"}}),
            wire.get(f"{path}/items"),
            wire.post(f"{path}/items", json={"items": [{"role": "user", "content": "bob was here"}]}),
            wire.get(f"{path}/items/{item_id}"),
            wire.delete(f"{path}/items/{item_id}"),
            wire.delete(path),
        ]

    unknown = every("conv_" + "0" * 48, "msg_1")
    for name in (made.id, "private", "busy"):
        theirs = every(name, str(item.id))
        assert [answer.status_code for answer in theirs] == [404] * 7
        assert [shown(answer) for answer in theirs] == [shown(answer) for answer in unknown]
    # The same name is another conversation of one's own.
    assert told(bob, "history", conversation=made.id) == []
    assert told(bob, "history", conversation="private") == []
    assert told(ada, "history", conversation=made.id) == [["user", "mine"]]
    assert ada.conversations.retrieve(made.id) == made
    bob.conversations.delete(made.id)
    assert len(list(ada.conversations.items.list(made.id))) == 3


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", f"Basic {ADA}"])
def test_without_a_key_there_is_nothing(guarded: Any, adas: dict[str, str], authorization: str | None) -> None:
    headers = {"authorization": authorization} if authorization else {}
    # A connection for each: whoever is refused before their body was read loses theirs.
    options: dict[str, Any] = {"limits": httpx.Limits(max_keepalive_connections=0), "trust_env": False, "timeout": 60}
    with httpx.Client(base_url=guarded.base_url, headers=headers, **options) as nobody:
        answers = ways(nobody, adas["completed"])
        answers += [
            nobody.post("/conversations"),
            nobody.get("/conversations/private"),
            nobody.get("/conversations/private/items"),
            nobody.post("/responses", json={"input": "hi"}),
            nobody.post("/responses/input_tokens", json={}),
        ]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.json()["error"]["code"] for answer in answers} == {"invalid_api_key"}


def test_a_connection_of_a_refused_caller(guarded: Any) -> None:
    """Their request's body comes after the refusal: the connection can be used again, or says that it ends."""
    host, _, port = guarded.root.removeprefix("http://").rpartition(":")
    head = b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as wire:
        wire.sendall(head)
        first = wire.recv(65536)
        assert first.startswith(b"HTTP/1.1 401")
        if b"connection: close" in first.lower():
            return
        wire.sendall(b'{"input": "hi"}' + head)
        assert wire.recv(65536).startswith(b"HTTP/1.1 401")


# -- isolation headers


def headed(client: openai.OpenAI, user: str | None = None, chat: str | None = None) -> openai.OpenAI:
    headers = {name: value for name, value in ((USER, user), (CHAT, chat)) if value is not None}
    return client.with_options(default_headers=headers)


def test_a_spoofed_header_changes_nothing(lab: Any, guarded: Any, told: Any, tmp_path: Path) -> None:
    for number, client in enumerate((lab.client(), guarded.client(api_key=ADA))):
        spoofed = headed(client, "root", "boardroom")
        name = f"spoofed-{number}"
        assert told(client, "call whose", conversation=name) == 'results: ["nobody"]'
        assert told(spoofed, "call whose", conversation=name) == 'results: ["nobody"]'
        assert len(told(spoofed, "history", conversation=name)) == 8
        response = client.responses.create(model="m", input="one", background=True)
        assert spoofed.responses.retrieve(response.id).id == response.id
    # Whoever has a key gets no further by it, either.
    mine = guarded.client(api_key=ADA).responses.create(model="m", input="mine")
    for pretence in ("key-of-ada", "ada", "", "*"):
        with pytest.raises(openai.NotFoundError):
            headed(guarded.client(api_key=BOB), pretence).responses.retrieve(mine.id)


def test_trusted_headers_partition(trusting: Any, told: Any) -> None:
    client = trusting.client()
    parties = [
        headed(client),
        headed(client, "ann"),
        headed(client, "ben"),
        headed(client, None, "ann"),
        headed(client, "ann", "team"),
        headed(client, "ann", "other team"),
    ]
    names = ["nobody", "user ann, chat None", "user ben, chat None", "user None, chat ann"]
    names += ["user ann, chat team", "user ann, chat other team"]
    for party, name in zip(parties, names, strict=True):
        assert told(party, "call whose", conversation="shared name") == f"results: {json.dumps([name])}"
    made = [party.responses.create(model="m", input=f"of {n}", background=True) for n, party in enumerate(parties)]
    conversations = [party.conversations.create() for party in parties]
    for one, party in enumerate(parties):
        assert len(told(party, "history", conversation="shared name")) == 4
        for other, response in enumerate(made):
            if one == other:
                assert party.responses.retrieve(response.id).id == response.id
                assert party.conversations.retrieve(conversations[one].id) == conversations[one]
                continue
            with pytest.raises(openai.NotFoundError):
                party.responses.retrieve(response.id)
            with pytest.raises(openai.NotFoundError):
                party.conversations.retrieve(conversations[other].id)
            with pytest.raises(openai.BadRequestError):
                told(party, "go on", previous_response_id=response.id)


def test_trusted_headers_over_a_websocket(trusting: Any, told: Any) -> None:
    ann = headed(trusting.client(), "ann-ws")
    with ExitStack() as stack:
        mine = stack.enter_context(ann.responses.connect(extra_headers={USER: "ann-ws"}))
        theirs = stack.enter_context(ann.responses.connect(extra_headers={USER: "ben-ws"}))
        mine.response.create(model="m", input="call whose", conversation="by wire")
        done = next(event for event in mine if event.type == "response.completed")
        assert done.response.output_text == 'results: ["user ann-ws, chat None"]'
        theirs.response.create(model="m", input="hi", previous_response_id=done.response.id)
        assert theirs.recv().error.code == "previous_response_not_found"  # type: ignore[union-attr]
    assert ann.responses.retrieve(done.response.id) == done.response


def test_a_run_remembers_for_whom_it_is(servers: Any, tmp_path: Path, until: Any) -> None:
    """Also if it runs in another process than the one that was told."""
    config: dict[str, Any] = {"state": tmp_path / "state", "channel": {"trust_isolation_headers": True}}
    gate = tmp_path / "gate"
    first = servers.hosted(**config)
    client = headed(first.client(), "ann", "team")
    client.responses.create(model="m", input=f"gate {gate}", conversation="kept", background=True)
    waiting = client.responses.create(model="m", input="call whose", conversation="kept", background=True)
    first.happened("start", f"gate {gate}")
    first.kill()
    gate.touch()
    second = servers.hosted(**config)
    client = headed(second.client(), "ann", "team")
    until(lambda: client.responses.retrieve(waiting.id).status == "completed", "it completes")
    assert client.responses.retrieve(waiting.id).output_text == 'results: ["user ann, chat team"]'
    with pytest.raises(openai.NotFoundError):
        headed(second.client(), "ben", "team").responses.retrieve(waiting.id)
