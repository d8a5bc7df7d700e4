"""Questions of workflows and approvals of tools, with the real SDK: asked, left open through the end of a process, and
answered once.
"""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall
from openai.types.responses.response_output_item import McpApprovalRequest

DESK = "flows:make_desk"


@pytest.fixture(scope="module")
def desk(module_servers: Any) -> Any:
    """A server of the desk, for whoever does not stop it."""
    return module_servers.command(target=DESK)


@pytest.fixture(scope="module")
def sdk(desk: Any) -> openai.OpenAI:
    return desk.client()


def question(response: Response) -> ResponseFunctionToolCall:
    """The one question of a response."""
    assert response.status == "completed", response.error
    [found] = [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]
    assert found.name == "request_info"
    return found


def output(call_id: str, value: Any) -> list[Any]:
    """The input that answers a question."""
    text = value if isinstance(value, str) else json.dumps(value)
    return [{"type": "function_call_output", "call_id": call_id, "output": text}]


def say(sdk: openai.OpenAI, said: Any, **fields: Any) -> Response:
    response: Response = sdk.responses.create(model="any", input=said, **fields)
    return response


def refused(sdk: openai.OpenAI, said: Any, **fields: Any) -> tuple[int, str | None]:
    """Status and code of a refusal, which says that sending it again is no use."""
    with pytest.raises(openai.APIStatusError) as caught:
        say(sdk, said, **fields)
    if caught.value.status_code == 409:
        assert caught.value.response.headers["x-should-retry"] == "false"
    return caught.value.status_code, caught.value.code


def ended(until: Callable[..., Any], sdk: openai.OpenAI, response_id: str) -> Response:
    """A response of the background, once it has ended."""
    found: Response = until(
        lambda: r if (r := sdk.responses.retrieve(response_id)).status not in ("queued", "in_progress") else None,
        f"{response_id} ends",
    )
    return found


def done(server: Any, what: str) -> list[str]:
    """What was written down, in its order."""
    return [entry["text"] for entry in server.journal() if entry["what"] == what]


# -- asked and answered


def test_by_previous_response_id(sdk: openai.OpenAI) -> None:
    asked = say(sdk, "ask deploy")
    call = question(asked)
    told = json.loads(call.arguments)
    assert told["data"] == {"what": "deploy"}
    assert told["source"] == "desk"
    assert told["response_schema"] == {"type": "boolean"}
    assert asked.output_text == "thinking about deploy"
    answered = say(sdk, output(call.call_id, True), previous_response_id=asked.id)
    assert answered.output_text == "deploy: True, answer 1 of this conversation"
    again = say(sdk, "ask more", previous_response_id=answered.id)
    last = say(sdk, output(question(again).call_id, "false"), previous_response_id=again.id)
    assert last.output_text == "more: False, answer 2 of this conversation"


def test_by_conversation(sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create().id
    call = question(say(sdk, "ask deploy", conversation=conversation))
    [waiting] = sdk.conversations.retrieve(conversation).waiting  # type: ignore[attr-defined]
    assert (waiting["type"], waiting["id"], waiting["name"]) == ("function_call", call.call_id, "request_info")
    answer = say(sdk, output(call.call_id, False), conversation=conversation)
    assert answer.output_text == "deploy: False, answer 1 of this conversation"
    assert not hasattr(sdk.conversations.retrieve(conversation), "waiting")
    items = sdk.conversations.items.list(conversation, order="asc").data
    assert [item.type for item in items] == [
        "message",
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]
    assert say(sdk, "hello", conversation=conversation).output_text == "heard: hello"


def test_the_calls_may_be_repeated_with_their_outputs(sdk: openai.OpenAI) -> None:
    """As SDKs do that send the response's own output back, with the call's output behind it."""
    asked = say(sdk, "ask deploy")
    call = question(asked)
    both = [call.model_dump(exclude_none=True), *output(call.call_id, True)]
    assert say(sdk, both, previous_response_id=asked.id).output_text.startswith("deploy: True")


def test_as_events(sdk: openai.OpenAI) -> None:
    """The question is in the events as any call is; the SDK's helper reads them."""
    with sdk.responses.stream(model="any", input="ask deploy") as stream:
        events = list(stream)
        asked = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[-1] == "response.completed"
    [added] = [
        event.item
        for event in events
        if event.type == "response.output_item.added" and event.item.type == "function_call"
    ]
    [arguments] = [event.arguments for event in events if event.type == "response.function_call_arguments.done"]
    assert json.loads(arguments)["data"] == {"what": "deploy"}
    call = question(asked)  # type: ignore[arg-type]
    assert (added.call_id, added.name) == (call.call_id, "request_info")  # type: ignore[union-attr]
    answer = output(call.call_id, True)
    with sdk.responses.create(model="any", input=answer, previous_response_id=asked.id, stream=True) as rest:
        said = "".join(event.delta for event in rest if event.type == "response.output_text.delta")
    assert said == "deploy: True, answer 1 of this conversation"


def test_in_the_background(sdk: openai.OpenAI, until: Any) -> None:
    asked = ended(until, sdk, say(sdk, "ask deploy", background=True).id)
    answer = output(question(asked).call_id, True)
    answered = ended(until, sdk, say(sdk, answer, previous_response_id=asked.id, background=True).id)
    assert answered.output_text == "deploy: True, answer 1 of this conversation"
    # Whoever answers again is told so: at once if nothing was in the way, otherwise by the response.
    assert refusal(until, sdk, answer, asked.id) == "question_answered"


def refusal(until: Callable[..., Any], sdk: openai.OpenAI, said: Any, after: str) -> str | None:
    """By which code a request in the background is refused, sooner or later."""
    try:
        response = ended(until, sdk, say(sdk, said, previous_response_id=after, background=True).id)
    except openai.ConflictError as error:
        return error.code
    return response.error.code if response.error is not None else None


def test_over_a_websocket(sdk: openai.OpenAI) -> None:
    def last(connection: Any) -> Response:
        while (event := connection.recv()).type != "response.completed":
            assert event.type != "error", event
        response: Response = event.response
        return response

    with sdk.responses.connect() as connection:
        connection.response.create(model="any", input="ask deploy")
        asked = last(connection)
        connection.response.create(model="any", input="and now?", previous_response_id=asked.id)
        problem: Any = connection.recv()
        assert (problem.type, problem.status, problem.error.code) == ("error", 409, "question_open")
    with sdk.responses.connect() as connection:
        answer: Any = output(question(asked).call_id, True)
        connection.response.create(model="any", input=answer, previous_response_id=asked.id)
        assert last(connection).output_text == "deploy: True, answer 1 of this conversation"


def test_answers_with_members(sdk: openai.OpenAI) -> None:
    asked = say(sdk, "choose disk")
    schema = json.loads(question(asked).arguments)["response_schema"]
    assert set(schema["properties"]) == {"approved", "reason"}
    answer = output(question(asked).call_id, {"approved": False, "reason": "it is Friday"})
    assert say(sdk, answer, previous_response_id=asked.id).output_text == "disk: False because it is Friday"


def test_two_questions_at_once(sdk: openai.OpenAI) -> None:
    asked = say(sdk, "both things")
    calls = {
        json.loads(item.arguments)["data"]["what"]: item.call_id
        for item in asked.output
        if isinstance(item, ResponseFunctionToolCall)
    }
    both = [*output(calls["first things"], True), *output(calls["second things"], False)]
    texts = say(sdk, both, previous_response_id=asked.id).output_text
    assert "first things: True" in texts
    assert "second things: False" in texts


def test_two_questions_one_by_one(sdk: openai.OpenAI) -> None:
    asked = say(sdk, "both things", conversation="one-by-one")
    first, second = [item.call_id for item in asked.output if isinstance(item, ResponseFunctionToolCall)]
    answer = say(sdk, output(first, True), conversation="one-by-one")
    assert answer.output_text == "first things: True, answer 1 of this conversation"
    assert refused(sdk, "hello", conversation="one-by-one") == (409, "question_open")
    answer = say(sdk, output(second, True), conversation="one-by-one")
    assert answer.output_text == "second things: True, answer 2 of this conversation"
    assert say(sdk, "hello", conversation="one-by-one").output_text == "heard: hello"


@pytest.fixture(scope="module")
def wants(module_servers: Any) -> openai.OpenAI:
    client: openai.OpenAI = module_servers.command(target="flows_more:wants").client()
    return client


@pytest.mark.parametrize(
    ("kind", "answer", "said"),
    [
        ("messages", "hello", "user: hello"),
        ("texts", ["a", "b"], "['a', 'b']"),
        ("perhaps", 7, "7"),
        ("perhaps", None, "None"),
    ],
)
def test_answers_of_many_types(wants: openai.OpenAI, kind: str, answer: Any, said: str) -> None:
    asked = say(wants, kind)
    told = say(wants, output(question(asked).call_id, answer), previous_response_id=asked.id)
    assert told.output_text == said


# -- what is refused


def test_what_is_refused_changes_nothing(sdk: openai.OpenAI) -> None:
    asked = say(sdk, "ask deploy", conversation="refusing")
    call_id = question(asked).call_id
    where: dict[str, Any] = {"conversation": "refusing"}
    assert refused(sdk, "and now?", **where) == (409, "question_open")
    assert refused(sdk, output("call_of_nobody", True), **where) == (400, "question_not_found")
    assert refused(sdk, output(call_id, "maybe"), **where) == (422, "invalid_answer")
    assert refused(sdk, output(call_id, {"a": 1}), **where) == (422, "invalid_answer")
    mixed = [*output(call_id, True), {"type": "message", "role": "user", "content": "and more"}]
    assert refused(sdk, mixed, **where) == (422, "mixed_input")
    assert say(sdk, output(call_id, True), **where).output_text.startswith("deploy: True, answer 1 ")
    assert refused(sdk, output(call_id, True), **where) == (409, "question_answered")
    assert refused(sdk, output(call_id, True), previous_response_id=asked.id)[0] == 409
    assert say(sdk, "hello", **where).output_text == "heard: hello"


def test_a_question_of_another_conversation(sdk: openai.OpenAI) -> None:
    call_id = question(say(sdk, "ask deploy")).call_id
    assert refused(sdk, output(call_id, True), conversation="elsewhere") == (400, "question_not_found")


def test_there_are_no_branches(sdk: openai.OpenAI) -> None:
    first = say(sdk, "one", conversation="straight")
    say(sdk, "two", conversation="straight")
    assert refused(sdk, "other two", previous_response_id=first.id) == (409, "not_the_head")


def test_no_storm_of_retries(desk: Any) -> None:
    """What cannot help is not sent again, by a client that would."""
    sent: list[httpx.Request] = []
    with httpx.Client(trust_env=False, event_hooks={"request": [sent.append]}) as wire:
        client = openai.OpenAI(base_url=desk.base_url, api_key="none", max_retries=5, http_client=wire)
        asked = say(client, "ask deploy", conversation="calm")
        answer = output(question(asked).call_id, True)
        say(client, answer, conversation="calm")
        del sent[:]
        assert refused(client, answer, conversation="calm") == (409, "question_answered")
        assert len(sent) == 1
        assert refused(client, answer, previous_response_id=asked.id)[0] == 409
        assert len(sent) == 2


def test_answers_that_come_at_once_are_one(desk: Any, sdk: openai.OpenAI) -> None:
    asked = say(sdk, "ask race")
    answer = output(question(asked).call_id, True)
    outcomes: list[Any] = []

    def race() -> None:
        try:
            outcomes.append(say(sdk, answer, previous_response_id=asked.id).output_text)
        except openai.APIStatusError as error:
            outcomes.append(error.status_code)

    together(race, 6)
    assert sorted(map(str, outcomes)) == ["409"] * 5 + ["race: True, answer 1 of this conversation"]
    assert done(desk, "told").count("race") == 1


def test_a_workflow_that_raises_leaves_no_trace(sdk: openai.OpenAI) -> None:
    asked = say(sdk, "ask before", conversation="failing")
    say(sdk, output(question(asked).call_id, True), conversation="failing")
    with pytest.raises(openai.InternalServerError) as caught:
        say(sdk, "fail s3cr3t", conversation="failing")
    assert "s3cr3t" not in str(caught.value)
    after = say(sdk, "ask after", conversation="failing")
    text = say(sdk, output(question(after).call_id, True), conversation="failing").output_text
    assert text == "after: True, answer 2 of this conversation"


def together(run: Callable[..., None], count: int) -> None:
    """Run something in so many threads."""
    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_ten_conversations_at_once(sdk: openai.OpenAI) -> None:
    numbers: Iterator[int] = iter(range(10))
    seen: dict[int, list[str]] = {}

    def talk() -> None:
        number = next(numbers)
        name, said = f"crowd-{number}", []
        for turn in range(3):
            asked = say(sdk, f"ask {number}.{turn}", conversation=name)
            said.append(say(sdk, output(question(asked).call_id, turn % 2 == 0), conversation=name).output_text)
        seen[number] = said

    together(talk, 10)
    assert seen == {
        n: [f"{n}.{t}: {t % 2 == 0}, answer {t + 1} of this conversation" for t in range(3)] for n in range(10)
    }


# -- through the end of a process


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_question_outlives_the_process(servers: Any, until: Any, tmp_path: Path, end: str) -> None:
    state = tmp_path / "state"
    first = servers.command(target=DESK, state=state)
    sdk = first.client()
    chained = say(sdk, "ask chained")
    named = say(sdk, "ask named", conversation="named")
    behind = ended(until, sdk, say(sdk, "ask behind", background=True).id)
    answered = say(sdk, "ask answered")
    answer = output(question(answered).call_id, True)
    say(sdk, answer, previous_response_id=answered.id)
    getattr(first, end)()

    second = servers.command(target=DESK, state=state)
    sdk = second.client()
    assert question(sdk.responses.retrieve(behind.id)) == question(behind)
    assert refused(sdk, "hello", conversation="named") == (409, "question_open")
    for asked, where in (
        (chained, {"previous_response_id": chained.id}),
        (named, {"conversation": "named"}),
        (behind, {"previous_response_id": behind.id}),
    ):
        what = json.loads(question(asked).arguments)["data"]["what"]
        told = say(sdk, output(question(asked).call_id, True), **where)
        assert told.output_text == f"{what}: True, answer 1 of this conversation"
    assert refused(sdk, answer, previous_response_id=answered.id)[0] == 409
    assert second.stop() == 0
    # Nothing but the answers ran here: what had asked did not ask again.
    assert done(second, "start") == []
    assert done(second, "told") == ["chained", "named", "behind"]


# -- approvals of tools


def approval(response: Response) -> McpApprovalRequest:
    """The one approval that a response asks for."""
    [found] = [item for item in response.output if isinstance(item, McpApprovalRequest)]
    return found


def approve(request_id: str, answer: bool) -> list[Any]:
    return [{"type": "mcp_approval_response", "approval_request_id": request_id, "approve": answer}]


WIPE = 'call wipe {"disk": "sda"}'


@pytest.mark.parametrize("target", ["flows:guarded", "flows:make_delegating"])
def test_a_tool_is_approved_after_sigkill(servers: Any, tmp_path: Path, target: str) -> None:
    state = tmp_path / "state"
    first = servers.command(target=target, state=state)
    sdk = first.client()
    asked = say(sdk, WIPE, conversation="tools")
    refusing = say(sdk, WIPE)
    request = approval(asked)
    assert (request.name, json.loads(request.arguments)) == ("wipe", {"disk": "sda"})
    assert asked.output_text == ""
    assert not any(isinstance(item, ResponseFunctionToolCall) for item in asked.output)
    first.kill()

    second = servers.command(target=target, state=state)
    sdk = second.client()
    [waiting] = sdk.conversations.retrieve("tools").waiting  # type: ignore[attr-defined]
    assert (waiting["type"], waiting["id"]) == ("mcp_approval_request", request.id)
    assert done(second, "wiped") == []
    told = say(sdk, approve(request.id, True), conversation="tools")
    assert told.output_text == 'results: ["sda is empty"]'
    assert done(second, "wiped") == ["sda"]
    assert refused(sdk, approve(request.id, True), conversation="tools") == (409, "question_answered")
    say(sdk, approve(approval(refusing).id, False), previous_response_id=refusing.id)
    assert refused(sdk, approve("nothing", True), conversation="tools") == (400, "question_not_found")
    assert done(second, "wiped") == ["sda"]
    assert done(first, "wiped") == []
    assert second.stop() == 0


def test_an_approval_as_a_calls_output(servers: Any, tmp_path: Path) -> None:
    """For clients that know nothing of approvals."""
    server = servers.command(target="flows:guarded", state=tmp_path / "state")
    sdk = server.client()
    asked = say(sdk, WIPE)
    told = say(sdk, output(approval(asked).id, {"approve": True}), previous_response_id=asked.id)
    assert told.output_text == 'results: ["sda is empty"]'
    with sdk.responses.stream(model="any", input=WIPE) as stream:
        asked = stream.get_final_response()
    told = say(sdk, approve(approval(asked).id, True), previous_response_id=asked.id)
    assert told.output_text == 'results: ["sda is empty"]'
    # An agent may be spoken to all the same; then the approval is not needed any more.
    asked = say(sdk, WIPE, conversation="aside")
    assert say(sdk, "never mind", conversation="aside").output_text.endswith("never mind")
