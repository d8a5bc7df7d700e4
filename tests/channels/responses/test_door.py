"""What all endpoints share: errors in the protocol's envelope, keys, isolation, request ids."""

from __future__ import annotations

from typing import Any

import pytest

from afactors_channels import (
    BadRequest,
    Conflicting,
    HostError,
    IsolationKeys,
    NotFound,
    Overloaded,
    StorageFull,
    TargetFailed,
    Unprocessable,
)
from afactors_channels.responses.exchange import Answer

# --- errors

SHOULD_NOT = {b"x-should-retry": b"false"}
ERRORS = [
    (BadRequest("no", field="input"), 400, "invalid_request_error", "invalid_request", "input", {}),
    (HostError("no", status=403, code="forbidden"), 403, "permission_error", "forbidden", None, {}),
    (Conflicting("no"), 409, "invalid_request_error", "conflict", None, SHOULD_NOT),
    (
        Conflicting("no", field="session", code="session_busy"),
        409,
        "invalid_request_error",
        "conversation_busy",
        "conversation",
        SHOULD_NOT,
    ),
    (Unprocessable("no", field="input"), 422, "invalid_request_error", "unprocessable", "input", {}),
    (
        Overloaded("no", retry_after=1.5),
        429,
        "rate_limit_error",
        "overloaded",
        None,
        {b"retry-after": b"2", b"retry-after-ms": b"1500"},
    ),
    (Overloaded("no", code="draining", status=503), 503, "server_error", "draining", None, {}),
    (StorageFull("no"), 507, "server_error", "storage_full", None, SHOULD_NOT),
    (TargetFailed("no"), 500, "server_error", "server_error", None, SHOULD_NOT),
    *(
        (kind("no", field="session", code=code), status, "invalid_request_error", code, param, headers)
        for kind, status, code, param, headers in [
            (BadRequest, 400, "question_not_found", "input", {}),
            (Conflicting, 409, "question_answered", "input", SHOULD_NOT),
            (Conflicting, 409, "question_expired", "input", SHOULD_NOT),
            (Conflicting, 409, "question_open", "input", SHOULD_NOT),
            (Unprocessable, 422, "invalid_answer", "input", {}),
            (Unprocessable, 422, "mixed_input", "input", {}),
            (Unprocessable, 422, "invalid_payload", "input", {}),
            (Conflicting, 409, "not_the_head", "previous_response_id", SHOULD_NOT),
        ]
    ),
    (TargetFailed("no", code="checkpoint_refused"), 500, "server_error", "checkpoint_refused", None, SHOULD_NOT),
    (
        NotFound("no", field="session.after", code="point_not_found"),
        400,
        "invalid_request_error",
        "previous_response_not_found",
        "previous_response_id",
        {},
    ),
    (
        BadRequest("no", field="session", code="session_required"),
        400,
        "invalid_request_error",
        "session_required",
        "conversation",
        {},
    ),
    (
        BadRequest("no", field="session", code="invalid_session"),
        400,
        "invalid_request_error",
        "invalid_session",
        "conversation",
        {},
    ),
]


@pytest.mark.parametrize("mode", [{}, {"stream": True}, {"background": True}], ids=["whole", "stream", "background"])
@pytest.mark.parametrize("case", ERRORS, ids=[case[3] for case in ERRORS])
async def test_a_refusal_has_its_status_and_envelope(site: Any, case: Any, mode: dict[str, bool]):
    error, status, kind, code, field, headers = case
    site.context.refusal = type(error)(
        error.message, field=error.field, code=error.code, status=error.status, retry_after=error.retry_after
    )
    client = await site.post("/responses", {"input": "Hi", **mode})
    assert client.status == status
    assert (client.error["type"], client.error["code"], client.error["param"]) == (kind, code, field)
    told = {name: value for name, value in client.headers.items() if b"retry" in name}
    assert told == headers
    assert b"x-request-id" in client.headers


async def test_a_refusal_in_the_middle_of_a_stream_is_its_last_event(site: Any):
    client = site.client("GET", "/")
    answer = Answer(client.send, b"req_1")
    await answer.events([b'event: a\ndata: {"type":"a"}\n\n'], last=False)
    await answer.refuse(Conflicting("no", field="x"))
    told = {"type": "error", "sequence_number": 0, "code": "conflict", "message": "no", "param": "x"}
    assert client.events == [{"type": "a"}, told]


@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
async def test_nothing_is_at_another_path(site: Any, method: str):
    client = await site.serve(site.client(method, "/nothing", {}))
    assert client.refused == (404, None, "not_found")


# --- keys


def everything(site: Any) -> list[tuple[str, str]]:
    paths = [(route.method, route.path.format(response_id="r", conversation_id="c", item_id="i"))
             for route in site.contribution.routes if route.path.startswith("/v1")]  # fmt: skip
    return [(method, path.removeprefix("/v1")) for method, path in paths if method != "WEBSOCKET"]


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic right"}])
async def test_without_a_key_nothing_is_read(site: Any, headers: dict[str, str]):
    site.open(api_keys=["right"])
    assert len(everything(site)) == 16
    for method, path in everything(site):
        client = await site.serve(site.client(method, path, {"input": "Hi"}, headers))
        assert client.refused == (401, None, "invalid_api_key")
        assert client.error["type"] == "authentication_error"
        assert len(client.chunks) == 2, "not even the body"
    assert (site.context.asked, site.context.about) == ([], [])
    assert (await site.post("/responses", {"input": "Hi"}, authorization="Bearer right")).status == 200


async def test_a_key_has_a_world_of_its_own(site: Any):
    site.open(api_keys={"acme": "k", "mill": "m"})
    body = {"input": "Hi", "conversation": "talk"}
    first = await site.post("/responses", body, authorization="Bearer k")
    assert (await site.get("/conversations/talk", authorization="Bearer k")).status == 200
    other = await site.get("/conversations/talk", authorization="Bearer m")
    assert other.refused == (404, "conversation_id", "conversation_not_found")
    body = {"input": "Hi", "previous_response_id": first.json["id"]}
    assert (await site.post("/responses", body, authorization="Bearer k")).status == 200
    other = await site.post("/responses", body, authorization="Bearer m")
    assert other.refused == (400, "previous_response_id", "previous_response_not_found")


# --- isolation

USER, CHAT = "x-agent-user-isolation-key", "x-agent-chat-isolation-key"


async def asked(site: Any, **headers: str) -> Any:
    client = await site.post("/responses", {"input": "Hi"}, **headers)
    assert client.status == 200
    return site.context.asked[-1]


async def test_isolation_is_nobodys_to_claim(site: Any):
    for options, partition in [({}, ""), ({"api_keys": {"acme": "k"}}, "acme")]:
        site.open(**options)
        request = await asked(site, **{"authorization": "Bearer k", USER: "u", CHAT: "c"})
        assert (request.partition, request.isolation) == (partition, None)


@pytest.mark.parametrize("options", [{}, {"api_keys": {"acme": "k"}}])
async def test_a_trusted_platform_says_whom_it_is_for(site: Any, options: dict[str, Any]):
    site.open(trust_isolation_headers=True, **options)
    own = "acme" if options else ""
    partitions = []
    for given in [{}, {USER: "", CHAT: ""}, {USER: "u"}, {USER: "u", CHAT: ""}, {CHAT: "u"}, {USER: "u", CHAT: "u"},
                  {USER: "uu"}, {USER: 'u","u'}]:  # fmt: skip
        request = await asked(site, **{"authorization": "Bearer k", **given})
        keys = IsolationKeys(given.get(USER) or None, given.get(CHAT) or None)
        assert request.isolation == (keys if keys != IsolationKeys() else None)
        partitions.append(request.partition)
    assert partitions[:2] == [own, own]
    assert partitions[2] == partitions[3]
    assert len({*partitions[2:]}) == 5
    # A name of a credential has no tilde (see test_credentials).
    assert all(one.startswith(f"{own}~") and len(one) == len(own) + 33 for one in partitions[2:])
    assert not any("u" in one.removeprefix(own) for one in partitions[2:])


async def test_isolation_partitions_everything(site: Any):
    site.open(trust_isolation_headers=True)
    first = await site.post("/responses", {"input": "Hi", "conversation": "talk"}, **{USER: "one"})
    assert (await site.post("/conversations", None, **{USER: "one"})).status == 200
    response_id = first.json["id"]
    for user, status in [("one", 200), ("two", 404), ("", 404)]:
        assert (await site.get(f"/responses/{response_id}", **{USER: user})).status == status
        assert (await site.get("/conversations/talk", **{USER: user})).status == status
    assert {request.isolation for request in site.context.about} == {
        IsolationKeys("one"), IsolationKeys("two"), None
    }  # fmt: skip
    body = {"model": "m", "input": "Hi", "previous_response_id": response_id}
    assert (await site.post("/responses/compact", body, **{USER: "two"})).status == 400
    assert (await site.post("/responses/compact", body, **{USER: "one"})).status == 200
    assert site.context.compacted[-1][0].isolation == IsolationKeys("one")


# --- request ids


@pytest.mark.parametrize("given", ["mine-1", "x" * 512, "a b;c=~"])
async def test_the_clients_request_id_is_sent_back(site: Any, given: str):
    for body in ({"input": "Hi"}, {"input": "Hi", "stream": True}, {"input": 5}):
        client = await site.post("/responses", body, x_request_id=given)
        assert client.headers[b"x-request-id"] == given.encode()
    assert (await site.get("/conversations/talk", x_request_id=given)).headers[b"x-request-id"] == given.encode()


@pytest.mark.parametrize("given", [None, "", "x" * 513, "caf\xe9", "a\r\nset-cookie: b", "tab\t"])
async def test_without_one_that_a_header_can_hold_it_gets_one_of_ours(site: Any, given: str | None):
    ids = set()
    for _ in range(3):
        client = await site.post("/responses", {"input": "Hi"}, **({} if given is None else {"x-request-id": given}))
        ids.add(client.headers[b"x-request-id"])
    assert len(ids) == 3
    assert all(one.startswith(b"req_") and len(one) > 20 for one in ids)
