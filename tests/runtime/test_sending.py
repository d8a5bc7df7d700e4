"""What a turn sends, and to whom: a runtime over a fake target, channels that take deliveries, and virtual time."""

import copy
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import trio
from agent_framework import Message

from afactors.identities import DOCUMENT
from afactors.turn import ancestry
from afactors_channels import (
    BadRequest,
    ChannelContribution,
    NotAllowed,
    NotFound,
    PushRejected,
    ResponseTarget,
    StorageFull,
    TargetFailed,
)
from afactors_channels.pushes import PushPolicy
from afactors_store import BadKey, StoreFull
from tests.runtime.outgoing import RETRY, Taker, down, one_clock, takes, who

Clock = trio.abc.Clock
House = Any  # of conftest
Target = ResponseTarget
CHAT, MAIL = who(conversation="c1"), who(channel="mail")


@pytest.fixture(autouse=True)
def _calendar(monkeypatch: pytest.MonkeyPatch) -> None:
    one_clock(monkeypatch)


@pytest.fixture
def chat() -> Taker:
    """A chat that replies by deliveries."""
    return Taker(replies_by_push=True)


@pytest.fixture
def mail() -> Taker:
    """A channel that takes deliveries, and whose own requests are answered."""
    return Taker("mail")


@pytest.fixture
def town(house: House, chat: Taker, mail: Taker) -> House:
    """A house with a wire, a chat and mail."""
    house.channel("test")
    house.channels += [chat, mail]
    return house


async def met(town: House, *identities: Any) -> None:
    """Have the actor see somebody, and forget that it answered."""
    for identity in identities:
        await town.ask(f"I am {identity.channel}", channel=identity.channel, identity=identity)
    await sent(town)
    for channel in town.channels:
        if isinstance(channel, Taker):
            channel.taken.clear()
            channel.attempts.clear()


async def sent(town: House) -> None:
    """Wait until all is delivered."""
    with trio.fail_after(100_000):
        while town.runtime.deliveries.statistics().pending:  # noqa: ASYNC110 - figures are all there is to read
            await trio.sleep(0.1)


async def history(town: House) -> list[Message]:
    session = await town.runtime.get_session(town.request(""))
    return [Message.from_dict(dict(message)) for message in session.messages]


async def marks(town: House) -> list[Any]:
    return [(one.role, one.additional_properties.get("hosting")) for one in await history(town)]


# --- replies


async def test_a_reply_goes_where_it_came_from(autojump_clock: Clock, town: House, chat: Taker, mail: Taker):
    async with town.open():
        token = await town.submit("hello", channel="chat", identity=CHAT)
        run = await town.runtime.get_continuation(token, wait=True)
        assert await town.ask("and by mail", channel="mail", identity=MAIL) == "hello and by mail"
        await sent(town)
        marked = await marks(town)
    (push,) = chat.taken
    assert (push.response.text, push.kind, push.identity, push.run_id) == ("hello", "reply", CHAT, run.run_id)
    assert mail.taken == []  # it was answered
    assert marked == [
        ("user", {"channel": "chat", "identity": "ada"}),
        ("assistant", {"target": "originating", "intended": ["chat:ada"]}),
        ("user", {"channel": "mail", "identity": "ada"}),
        ("assistant", None),
    ]


async def test_nobody_is_told_of_who_is_not_verified(autojump_clock: Clock, town: House):
    claimed = {"channel": "chat", "identity": "the king"}
    async with town.open():
        request = town.request("hello", identity=who(verified=False))
        message = Message("user", ["I am the king"], additional_properties={"hosting": claimed, "mine": 1}).to_dict()
        await town.runtime.ask(request.replace(input=[message]))
        await town.ask("and I am nobody")
        told = await history(town)
        assert await marks(town) == [("user", None), ("assistant", None)] * 2
        assert told[0].additional_properties["mine"] == 1


async def test_a_reply_goes_to_the_targets_of_its_request(autojump_clock: Clock, town: House, chat: Taker, mail: Taker):
    async with town.open():
        await met(town, MAIL, CHAT)
        answer = await town.ask("news", response_target=Target.channels(["mail", "chat", "fax"]))
        await sent(town)
        marked = (await marks(town))[-1]
    assert answer == "I am mail I am chat news"
    assert chat.said() == mail.said() == [answer]
    assert (chat.taken[0].identity, mail.taken[0].identity) == (CHAT, MAIL)
    assert chat.taken[0].delivery_id != mail.taken[0].delivery_id
    told = {"target": "channels", "intended": ["mail:ada", "chat:ada"]}
    assert marked == ("assistant", {**told, "skipped": [{"target": "fax", "reason": "no_such_channel"}]})
    assert chat.taken[0].response.messages[-1].additional_properties["hosting"] == marked[1]


async def test_what_a_message_carries_is_never_changed_afterwards(
    autojump_clock: Clock, town: House, chat: Taker, mail: Taker
):
    mail.always = down(PushRejected("no such mailbox"))
    async with town.open():
        await met(town, CHAT, MAIL)
        await town.ask("news", response_target=Target.all_linked)
        before = await marks(town)
        await sent(town)
        await town.ask("more")
    async with town.open():
        assert (await marks(town))[: len(before)] == before
        assert before[-1][1]["intended"] == ["mail:ada", "chat:ada"]


async def test_an_echo_comes_before_its_reply(autojump_clock: Clock, town: House, chat: Taker, mail: Taker):
    async with town.open():
        await met(town, CHAT, MAIL)
        target = Target.channels(["chat", "mail"], echo_input=True)
        await town.ask("hello", channel="chat", identity=CHAT, response_target=target)
        await sent(town)
    assert [(push.kind, push.response.text) for push in mail.taken] == [
        ("echo", "hello"),
        ("reply", "I am chat I am mail hello"),
    ]
    assert [push.response.messages[0].role for push in mail.taken] == ["user", "assistant"]
    assert [push.kind for push in chat.taken] == ["reply"]  # they know what they said


async def test_the_active_channel_is_where_the_user_wrote_last(
    autojump_clock: Clock, town: House, chat: Taker, mail: Taker
):
    target = Target("active", window=600.0)
    async with town.open():
        await met(town, MAIL, CHAT)
        await town.ask("one", response_target=target)
        await trio.sleep(500)
        await met(town, MAIL)
        await town.ask("two", response_target=target)
        await trio.sleep(599)
        await town.ask("three", response_target=target)
        await sent(town)
        assert [len(chat.taken), len(mail.taken)] == [0, 2]  # `met` has forgotten the first
        await trio.sleep(2)
        assert (await town.ask("four", response_target=target)).endswith("four")
        await sent(town)
        assert (await marks(town))[-1][1] == {"target": "active", "intended": ["originating"]}
    assert len(mail.taken) == 2


async def test_to_nobody(autojump_clock: Clock, town: House, chat: Taker, mail: Taker):
    async with town.open():
        await met(town, CHAT)
        token = await town.submit("quietly", channel="chat", identity=CHAT, response_target=Target.none)
        run = await town.runtime.get_continuation(token, wait=True)
        assert run.result is not None
        assert run.result.text == "I am chat quietly"
        await sent(town)
        assert (await marks(town))[-1][1] == {"target": "none", "intended": []}
    assert chat.attempts == mail.attempts == []


async def test_each_destination_gets_its_own_copy_of_a_reply(autojump_clock: Clock, house: House):
    def hook(result: Any, *, context: Any) -> Any:
        place = f"{context.channel_name} {context.originating} {context.is_echo}"
        result.result.messages[0].contents[0].text += f" ({place})"
        return result

    chat, mail = Taker(response_hook=hook, replies_by_push=True), Taker("mail", response_hook=hook)
    house.channels += [chat, mail]
    async with house.open():
        await met(house, MAIL, CHAT)
        await house.ask("x", channel="chat", identity=CHAT, response_target=Target("all_linked", echo_input=True))
        await sent(house)
        assert [one.text for one in await history(house)][-2:] == ["x", "I am mail I am chat x"]
    assert chat.said() == ["I am mail I am chat x (chat True False)"]
    assert mail.said() == ["x (mail False True)", "I am mail I am chat x (mail False False)"]


@pytest.mark.parametrize("name", ["a\0b", "a\ud800"])
async def test_a_name_that_no_store_takes_is_replied_to(autojump_clock: Clock, town: House, chat: Taker, name: str):
    async with town.open():
        await town.submit("hello", channel="chat", identity=who(name))
        await trio.sleep(1)
        await sent(town)
        assert town.actors.restarts == 0
    assert chat.said(name) == ["hello"]


# --- who may push where


@pytest.mark.parametrize("name", ["eve", "ada"])
async def test_a_request_can_name_only_its_actors_own_identities(
    autojump_clock: Clock, town: House, chat: Taker, name: str
):
    named = Target.identity(who(name, verified=False))
    async with town.open():
        await met(town, CHAT)
        await town.ask("hello", key="eve", channel="chat", identity=who("eve"))
        await sent(town)
        chat.taken.clear()
        if name == "ada":
            await town.ask("mine", response_target=named)
            await sent(town)
            assert chat.said() == ["I am chat mine"]
            return
        with pytest.raises(NotAllowed) as refused:
            await town.ask("hers", response_target=named)
        assert (refused.value.status, refused.value.code) == (403, "not_your_identity")
        with pytest.raises(NotAllowed):
            await town.submit("hers", response_target=named)
        assert town.target.started[-1] == "hello"
        await sent(town)
        assert chat.taken == []


async def test_a_request_may_name_its_own_identity_with_its_first_message(
    autojump_clock: Clock, town: House, mail: Taker
):
    async with town.open():
        target = Target.identity(who(channel="mail", verified=False))
        await town.ask("hello", channel="mail", identity=MAIL, response_target=target)
        await sent(town)
    assert mail.said() == ["hello"]


async def test_the_operators_code_may_name_anybody(autojump_clock: Clock, house: House, chat: Taker):
    def rule(request: Any, **_: Any) -> Any:
        return request.replace(response_target=Target.identity(who("boss", verified=False)))

    house.channel("test", run_hook=rule)
    house.channels.append(chat)
    async with house.open():
        await house.ask("a complaint")
        token = await house.submit("another")
        await house.runtime.get_continuation(token, wait=True)
        await sent(house)
    assert [(push.identity.native_id, push.response.text) for push in chat.taken] == [
        ("boss", "a complaint"),
        ("boss", "a complaint another"),
    ]


def retarget(request: Any, **changes: Any) -> Any:
    return request.replace(response_target=replace(request.response_target, **changes))


@pytest.mark.parametrize(
    "hook",
    [
        lambda request, **_: request.replace(metadata={"seen": "yes"}),
        lambda request, **_: copy.deepcopy(request),
        lambda request, **_: retarget(request, echo_input=True),
        lambda request, **_: retarget(request, to=[who("ops", verified=False), *request.response_target.to]),
        lambda request, **_: retarget(request, to=[replace(request.response_target.to[0], conversation="c2")]),
    ],
    ids=["leaves it", "copies it", "echoes", "adds to it", "moves it"],
)
async def test_a_hook_does_not_vouch_for_whom_the_request_named(
    autojump_clock: Clock, house: House, chat: Taker, hook: Any
):
    house.channel("test", run_hook=hook)
    house.channels.append(chat)
    async with house.open():
        with pytest.raises(NotAllowed):
            await house.ask("x", response_target=Target.identity(who("boss", verified=False)))
    assert chat.taken == []


async def test_a_hook_may_vouch_in_so_many_words(autojump_clock: Clock, house: House, chat: Taker):
    house.channel("test", run_hook=lambda request, **_: retarget(request, to=[who("boss")]))
    house.channels.append(chat)
    async with house.open():
        await house.ask("x", response_target=Target.identity(who("boss", verified=False)))
        await sent(house)
    assert [push.identity for push in chat.taken] == [who("boss")]


# --- whom an actor knows


async def test_identities_are_remembered_and_written_only_when_something_is_new(
    autojump_clock: Clock, town: House, chat: Taker, mail: Taker
):
    def written() -> int:
        return sum(DOCUMENT in commit.put for commit in town.store.commits)

    async with town.open():
        for _ in range(5):
            await town.ask("hello", channel="chat", identity=CHAT)
        await town.ask("anonymous")
        await town.ask("a claim", identity=who("eve", verified=False))
        assert written() == 1
        await town.ask("hello", channel="mail", identity=MAIL)
        assert written() == 2
    async with town.open():
        await town.ask("news", response_target=Target.all_linked)
        await town.ask("hello", channel="mail", identity=MAIL)
        await sent(town)
        assert (mail.said()[0].endswith("news"), written()) == (True, 2)
        await trio.sleep(61)
        await town.ask("still there", channel="mail", identity=MAIL)
        assert written() == 3


async def test_what_two_sessions_learn_at_once_is_kept(autojump_clock: Clock, house: House, mail: Taker, words: Any):
    """One of them waits for its transcript between its end and its commit, and the other one is faster."""
    go, waiting = trio.Event(), trio.Event()

    async def slow_transcript(method: str, _key: str) -> None:
        if method == "commit" and not (house.store.commits[-1].runs or waiting.is_set()):
            waiting.set()
            await go.wait()

    chat = Taker(transcriber=words)
    house.channels += [chat, mail]
    gate = house.target.hold_word("chat")
    async with house.open(idle_timeout=20) as runtime, trio.open_nursery() as nursery:

        async def follow() -> None:
            async with runtime.subscribe("resp_a") as rows:
                async for _ in rows:
                    pass

        house.store.before = slow_transcript
        slow = await house.post("by chat", "s1", channel="chat", identity=CHAT, stream=True, name="resp_a")
        nursery.start_soon(follow)
        await trio.sleep(1)
        gate.set()
        await waiting.wait()
        await house.ask("by mail", "s2", channel="mail", identity=MAIL)
        go.set()
        await slow.end()
        await trio.sleep(60)
        assert house.actors.live == 0
        assert len(await runtime.send("ada", "psst")) == 2


async def test_whoever_had_a_failed_turn_is_known(autojump_clock: Clock, town: House, chat: Taker, mail: Taker):
    async def fail(_request: Any, _session: Any) -> Any:
        raise OSError

    town.target.on["boom"] = fail
    async with town.open():
        await met(town, MAIL)
        with pytest.raises(TargetFailed):
            await town.ask("boom", channel="chat", identity=CHAT)
    async with town.open():
        await town.runtime.send("ada", "psst", target=Target.active)
        await sent(town)
    assert (chat.said(), mail.said()) == (["psst"], [])


async def test_a_message_counts_as_of_when_it_came_and_not_of_its_turns_end(
    autojump_clock: Clock, town: House, chat: Taker, mail: Taker
):
    gate = town.target.hold("slow")
    async with town.open() as runtime:
        await town.submit("slow", "s1", channel="chat", identity=CHAT)
        await trio.sleep(100)
        await town.ask("quick", "s2", channel="mail", identity=MAIL)
        await runtime.send("ada", "one", target=Target.active)
        gate.set()
        await trio.sleep(1)
        await runtime.send("ada", "two", target=Target.active)
        await sent(town)
    assert mail.said() == ["one", "two"]


async def test_a_message_counts_before_its_turn_ends(autojump_clock: Clock, town: House, chat: Taker, mail: Taker):
    gate = town.target.hold("slow")
    async with town.open() as runtime:
        await met(town, MAIL)
        await town.submit("slow", "s1")
        await town.submit("waits", "s1", channel="chat", identity=CHAT)
        await runtime.send("ada", "one", target=Target.active)
        await runtime.schedule("ada", timedelta(seconds=1), "two", as_turn=False)
        await trio.sleep(2)
        gate.set()
        await sent(town)
    assert (chat.said()[:1], mail.said()) == (["one"], [])
    assert "two" in chat.said()


async def test_a_window_is_exact_while_the_actor_lives(autojump_clock: Clock, town: House, chat: Taker):
    async with town.open() as runtime:
        await town.ask("hello", channel="chat", identity=CHAT)
        await trio.sleep(55)
        await town.ask("hello again", channel="chat", identity=CHAT)
        await trio.sleep(25)
        await runtime.send("ada", "psst", target=Target("active", window=30.0))
        await sent(town)
        assert chat.said()[-1] == "psst"
        await trio.sleep(10)
        with pytest.raises(NotFound):
            await runtime.send("ada", "psst", target=Target("active", window=30.0))


async def test_an_identity_that_cannot_be_stored_is_not_remembered(autojump_clock: Clock, town: House):
    async with town.open() as runtime:
        odd = replace(MAIL, attributes={"socket": object()})
        assert await town.ask("hello", channel="mail", identity=odd) == "hello"
        await town.submit("again")
        with pytest.raises(NotFound):
            await runtime.send("ada", "psst")


async def test_what_was_seen_and_not_written_is_written_later(autojump_clock: Clock, town: House, chat: Taker):
    async def no_room(method: str, _key: str) -> None:
        if method == "commit":
            raise StoreFull

    async with town.open():
        town.store.before = no_room
        with pytest.raises(StorageFull):
            await town.ask("hello", channel="chat", identity=CHAT)
        town.store.before = None
        await town.ask("hello again", channel="chat", identity=CHAT)
    async with town.open():
        await town.runtime.send("ada", "psst")
        await sent(town)
    assert chat.said() == ["hello again", "psst"]


# --- turns that fail


async def test_a_turn_that_fails_replies_nothing_but_that(autojump_clock: Clock, town: House, chat: Taker, mail: Taker):
    async def fail(_request: Any, _session: Any) -> Any:
        await town.runtime.send("ada", "from inside")
        raise OSError("a secret")

    town.target.on["boom"] = fail
    async with town.open():
        await met(town, MAIL, CHAT)
        target = Target("all_linked", echo_input=True)
        with pytest.raises(TargetFailed):
            await town.ask("boom", response_target=target)
        await sent(town)
        assert chat.attempts == mail.attempts == []
        token = await town.submit("boom", channel="chat", identity=CHAT, response_target=target)
        assert (await town.runtime.get_continuation(token, wait=True)).state == "failed"
        await sent(town)
    assert chat.said() == ["The agent failed to answer."]
    assert chat.taken[0].response.messages[0].additional_properties["hosting"] == {"error": "server_error"}
    assert mail.attempts == []


async def test_a_turn_that_is_called_off_says_nothing(autojump_clock: Clock, town: House, chat: Taker):
    town.target.hold("slow")
    async with town.open():
        token = await town.submit("slow", channel="chat", identity=CHAT)
        await town.target.began("slow").wait()
        assert (await town.runtime.cancel(token)).state == "cancelled"
        await sent(town)
    assert chat.attempts == []


class Codec:
    """A channel's codec that fails, or makes what cannot be stored."""

    def __init__(self, payload: Any = None) -> None:
        self.payload = payload

    def encode(self, _response: Any, _identity: Any) -> Any:
        if self.payload is None:
            raise KeyError("blocks")
        return self.payload

    def check(self, _payload: Any) -> None:
        raise AssertionError("nothing is pushed")


@pytest.mark.parametrize("payload", [None, {"at": object()}], ids=["raises", "not plain"])
async def test_a_codec_that_fails_ends_its_own_turn_alone_and_once(
    autojump_clock: Clock, house: House, mail: Taker, payload: Any
):
    house.channels += [Taker(replies_by_push=True, push_codec=Codec(payload)), mail]
    gate = house.target.hold("slow")
    async with house.open() as runtime:
        other = await house.post("slow", "s2")
        token = await house.submit("pay the bill", channel="chat", identity=CHAT)
        run = await runtime.get_continuation(token, wait=True)
        assert (run.state, run.error[0]) == ("failed", "session_not_storable")
        assert house.said(await runtime.get_input(token)) == ["pay the bill"]
        with pytest.raises(BadRequest) as refused:
            await runtime.send("ada", "psst")
        assert refused.value.code == "not_storable"
        gate.set()
        assert (await other.outcome()).result.text == "slow"
        assert house.actors.restarts == 0
        assert (await house.store.claim("ada")).letters == 0
    async with house.open():
        await trio.sleep(1)
    assert house.target.started.count("pay the bill") == 1


async def test_a_failure_that_cannot_be_told_is_recorded(autojump_clock: Clock, town: House, chat: Taker):
    """Whatever the store has against what is delivered, the letter is over."""

    async def fail(_request: Any, _session: Any) -> Any:
        raise OSError

    async def no_deliveries(method: str, _key: str) -> None:
        if method == "commit" and town.store.commits[-1].deliveries:
            raise BadKey("a lane that has no name")

    town.target.on["boom"] = fail
    town.store.before = no_deliveries
    async with town.open() as runtime:
        for text in ("boom", "hello"):
            token = await town.submit(text, channel="chat", identity=CHAT)
            assert (await runtime.get_continuation(token, wait=True)).state == "failed"
        assert (await town.store.claim("ada")).letters == 0
        assert town.actors.restarts == 0
    assert chat.attempts == []


# --- messages that nobody asked for


async def test_a_message_goes_to_all_whom_the_actor_knows(autojump_clock: Clock, town: House, chat: Taker, mail: Taker):
    async with town.open():
        await met(town, MAIL, CHAT)
        ids = await town.runtime.send("ada", "psst")
        await sent(town)
        assert (await marks(town))[-1] == ("assistant", {"target": "all_linked", "intended": ["chat:ada", "mail:ada"]})
        assert await town.runtime.send("ada", "forget it", target=Target.channel("mail"), remember=False)
        await sent(town)
        assert [one.text for one in await history(town)][-1] == "psst"
    assert [push.delivery_id for push in (*chat.taken, *mail.taken[:1])] == list(ids)
    assert {push.kind for push in (*chat.taken, *mail.taken)} == {"message"}
    assert mail.said() == ["psst", "forget it"]


async def test_a_message_that_would_reach_nobody_is_refused(autojump_clock: Clock, town: House):
    async with town.open():
        await met(town, CHAT)
        commits = len(town.store.commits)
        for key, target in (("ada", Target.channel("mail")), ("eve", Target.all_linked), ("ada", Target.none)):
            with pytest.raises(NotFound) as refused:
                await town.runtime.send(key, "psst", target=target)
            assert refused.value.code == "no_destination"
        assert len(town.store.commits) == commits


async def test_to_an_identity_by_itself(autojump_clock: Clock, town: House, chat: Taker):
    async with town.open():
        await town.runtime.send_to(who("new"), "welcome")
        await sent(town)
        assert [push.identity for push in chat.taken] == [who("new")]
        session = await town.runtime.get_session(town.request("", key="chat:new"))
        assert town.said(session.messages) == ["welcome"]
        with pytest.raises(BadRequest):
            await town.runtime.send_to(who("new", verified=False), "welcome")


async def test_a_message_sent_inside_a_turn_goes_with_its_commit(
    autojump_clock: Clock, town: House, chat: Taker, mail: Taker
):
    async def act(_request: Any, _session: Any) -> str:
        assert await town.runtime.send("ada", "on it", target=Target.channel("mail")) == ()
        assert await town.runtime.send("eve", "look", target=Target.channel("chat")) == ()
        await trio.sleep(10)
        assert chat.attempts == mail.attempts == []
        return "done"

    town.target.on["act"] = act
    async with town.open():
        await met(town, MAIL)
        await town.ask("hello", key="eve", channel="chat", identity=who("eve"))
        await sent(town)
        chat.taken.clear()
        chat.attempts.clear()
        commits = len(town.store.commits)
        assert await town.ask("act") == "done"
        (commit,) = town.store.commits[commits:]
        await sent(town)
    assert (len(commit.runs), len(commit.deliveries), len(commit.others)) == (1, 1, 1)
    assert (mail.said(), chat.said()) == (["on it"], ["look"])
    assert chat.taken[0].identity == who("eve")


async def test_a_users_first_turn_can_send_to_that_user(autojump_clock: Clock, town: House, mail: Taker):
    async def act(_request: Any, _session: Any) -> str:
        await town.runtime.send("ada", "on it")
        return "done"

    town.target.on["act"] = act
    async with town.open():
        assert await town.ask("act", channel="mail", identity=MAIL) == "done"
        await sent(town)
    assert mail.said() == ["on it"]


# --- the whole way


async def test_a_commit_has_the_turn_and_what_it_sends(autojump_clock: Clock, town: House):
    async with town.open():
        await town.ask("hello", channel="chat", identity=CHAT)
        commit = town.store.commits[-1]
    assert (len(commit.runs), len(commit.deliveries)) == (1, 1)
    assert DOCUMENT in commit.put


async def test_what_was_committed_before_a_crash_is_delivered_after_it(autojump_clock: Clock, town: House, chat: Taker):
    chat.always = takes(20.0)
    async with town.open(crash=True):
        for number in range(3):
            await town.submit(f"m{number}", channel="chat", identity=CHAT)
        await trio.sleep(25)  # in the middle of the second
    before = [push.delivery_id for push in chat.taken]
    chat.always = None
    async with town.open():
        await sent(town)
        assert town.runtime.deliveries.statistics().outlets[0].unsure == 1
    assert len(before) == 1
    assert chat.said() == ["m0", "m0 m1", "m0 m1 m2"]
    tries = [(push.response.text, push.attempt, push.unsure) for _, push in chat.attempts]
    assert tries == [("m0", 1, False), ("m0 m1", 1, False), ("m0 m1", 2, True), ("m0 m1 m2", 1, False)]
    assert chat.attempts[1][1].delivery_id == chat.attempts[2][1].delivery_id


async def test_the_account_at_the_end_says_how_many_of_each(autojump_clock: Clock, town: House, chat: Taker):
    policy = PushPolicy(retry=RETRY, concurrency=2)
    town.channels[1] = chat = Taker("chat", policy, replies_by_push=True)
    chat.always = takes(3.0)
    async with town.open(drain_timeout=7.0):
        for number in range(9):
            await town.submit("m", key=f"k{number}", channel="chat", identity=who(f"user-{number}"))
        await trio.sleep(0.5)
    report = town.runtime._report
    assert (report.delivered, report.cut_off, report.pending) == (4, 2, 5)
    assert "4 deliveries sent, 5 deliveries left for the next start, 2 deliveries of them cut off" in str(report)
    chat.always = None
    async with town.open():
        await sent(town)
    assert len({push.delivery_id for push in chat.taken}) == 9
    assert sum(push.unsure for push in chat.taken) == 2


async def test_a_cancelled_block_lets_deliveries_finish(autojump_clock: Clock, town: House, chat: Taker):
    chat.on["slow"] = takes(5.0)
    chat.on["never"] = takes(500.0)
    with trio.move_on_after(1):
        async with town.open(drain_timeout=10.0):
            for name in ("slow", "never"):
                await town.submit("m", key=name, channel="chat", identity=who(name))
            await trio.sleep_forever()
    report = town.runtime._report
    assert (report.delivered, report.cut_off, report.pending) == (1, 1, 1)
    assert 11 <= trio.current_time() < 12


async def test_a_drain_sends_by_what_a_channels_task_holds(autojump_clock: Clock, town: House):
    connected = False

    async def connect() -> None:
        nonlocal connected
        connected = True
        try:
            await trio.sleep_forever()
        finally:
            connected = False

    async def send(_push: Any) -> None:
        await trio.sleep(5)
        assert connected

    town.channels[1] = chat = Taker(replies_by_push=True, task=connect)
    chat.always = send
    with trio.move_on_after(1):
        async with town.open(drain_timeout=10.0):
            await town.submit("m", channel="chat", identity=who())
            await trio.sleep_forever()
    assert (len(chat.taken), connected) == (1, False)


async def test_an_opening_that_fails_leaves_nobody_sending(
    autojump_clock: Clock, town: House, monkeypatch: pytest.MonkeyPatch
):
    async def broken(*_args: Any, **_more: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError("no")

    monkeypatch.setattr("afactors.supervision.Supervisor.run", broken)
    with trio.fail_after(60), pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        async with town.open():
            pass


async def test_an_erased_actor_sends_nothing_more(autojump_clock: Clock, town: House, chat: Taker):
    chat.always = down()
    async with town.open():
        await town.ask("hello", channel="chat", identity=CHAT)
        await town.ask("hello", key="eve", channel="chat", identity=who("eve"))
        await trio.sleep(1)
        await town.runtime.erase_actor("ada")
        chat.always = None
        await sent(town)
        with pytest.raises(NotFound):
            await town.runtime.send("ada", "still there?")
    assert [push.identity.native_id for push in chat.taken] == ["eve"]


async def test_a_channel_without_deliveries_has_no_outlet(autojump_clock: Clock, town: House):
    assert ChannelContribution().push is None
    async with town.open():
        names = [one.channel for one in town.runtime.deliveries.statistics().outlets]
    assert names == ["chat", "mail"]
    assert ancestry.get() == ()
