"""Whom an actor knows, and where its replies go: pure."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afactors.aiming import aim
from afactors.encoding import pack
from afactors.identities import Identities
from afactors_channels import ChannelContribution, ChannelIdentity, ChannelRequest, ResponseTarget
from afactors_store import FormatTooNew


async def push(_push: Any) -> None:
    """Nobody calls it."""


CHANNELS = {
    "wire": ChannelContribution(),
    "chat": ChannelContribution(push=push, replies_by_push=True),
    "mail": ChannelContribution(push=push),
    "hook": ChannelContribution(push=push),
    "group": ChannelContribution(push=push, push_place=lambda identity: identity.conversation or identity.native_id),
}


def who(channel: str, name: str = "ada", conversation: str = "", *, verified: bool = True, **more: Any) -> Any:
    return ChannelIdentity(channel, name, more, conversation, verified)


CHAT, MAIL, WIRE = who("chat", conversation="c1"), who("mail"), who("wire")
KNOWN = Identities().with_(WIRE, 700.0).with_(MAIL, 800.0).with_(CHAT, 900.0)
Target = ResponseTarget


def aimed(target: ResponseTarget, channel: str = "wire", identity: Any = None, known: Identities = KNOWN) -> Any:
    request = ChannelRequest(channel, (), identity=identity, response_target=target)
    return aim(request, known, CHANNELS, 1000.0)


@pytest.mark.parametrize(
    ("target", "to", "skipped"),
    [
        (Target.originating, [], []),
        (Target.none, [], []),
        (Target.active, [CHAT], []),
        (Target("active", window=100.0), [CHAT], []),
        (Target("active", window=99.0), [], []),
        (Target.channel("mail"), [MAIL], []),
        (Target.channels(["mail", "chat", "mail"]), [MAIL, CHAT], []),
        (Target.channel("hook"), [], [("hook", "no_identity")]),
        (Target.channel("fax"), [], [("fax", "no_such_channel")]),
        (Target.channel("wire"), [], [("wire:ada", "does_not_push")]),
        (Target.channels(["fax", "mail"]), [MAIL], [("fax", "no_such_channel")]),
        (Target.identity(who("mail", verified=False)), [MAIL], []),
        (Target.identity(who("chat", verified=False)), [CHAT], []),
        (Target.identity(who("chat", conversation="c2", verified=False)), [], [("chat:ada", "unknown_identity")]),
        (Target.identity(who("mail", "eve", verified=False)), [], [("mail:eve", "unknown_identity")]),
        (Target.identity(who("mail", "eve")), [who("mail", "eve")], []),
        (Target.identities([MAIL, MAIL, CHAT]), [MAIL, CHAT], []),
        (Target.all_linked, [CHAT, MAIL], [("wire:ada", "does_not_push")]),
    ],
)
def test_where_a_reply_goes(target: ResponseTarget, to: list[Any], skipped: list[Any]):
    found = aimed(target)
    assert (list(found.destinations), list(found.skipped)) == (to, skipped)
    assert found.answers == (not to and target.kind != "none")
    assert list(found.echoed) == []
    told = found.told()
    assert told["target"] == target.kind
    assert told["intended"] == (["originating"] if found.answers else []) + [f"{o.channel}:{o.native_id}" for o in to]
    assert told.get("skipped", []) == [{"target": what, "reason": why} for what, why in skipped]


@pytest.mark.parametrize("target", [Target.originating, Target.active, Target("active", window=0.5)])
def test_back_to_a_channel_that_replies_by_deliveries_is_a_delivery(target: ResponseTarget):
    found = aimed(target, "chat", CHAT)
    assert (list(found.destinations), found.answers) == ([CHAT], False)
    assert not aimed(target, "chat", None, Identities()).destinations  # to nobody it cannot go


@pytest.mark.parametrize(
    ("target", "skipped"),
    [
        (Target.channel("hook"), [("hook", "no_identity")]),
        (Target.identity(who("mail", "eve", verified=False)), [("mail:eve", "unknown_identity")]),
        (Target.all_linked, []),
    ],
)
def test_what_reaches_nobody_goes_back(target: ResponseTarget, skipped: list[Any]):
    found = aimed(target, "chat", CHAT, known=Identities())
    assert (list(found.destinations), found.answers, list(found.skipped)) == ([CHAT], False, skipped)
    assert found.told()["target"] == target.kind
    assert list(aimed(replace(target, echo_input=True), "chat", CHAT, known=Identities()).echoed) == []


def test_the_active_channel_that_only_answers_is_answered():
    assert aimed(Target.active, "wire", WIRE, KNOWN.with_(WIRE, 950.0)).answers


def test_an_echo_goes_to_the_others_only():
    target = Target("all_linked", echo_input=True)
    found = aimed(target, "chat", CHAT)
    assert (list(found.destinations), list(found.echoed)) == ([CHAT, MAIL], [MAIL])
    assert list(aimed(target).echoed) == [CHAT, MAIL]
    assert list(aimed(Target.channel("mail", echo_input=True), "mail", MAIL).echoed) == []


def test_of_several_conversations_of_one_user_the_latest_is_meant():
    known = KNOWN.with_(who("chat", conversation="c2"), 950.0)
    assert list(aimed(Target.channel("chat"), known=known).destinations) == [who("chat", conversation="c2")]
    assert list(aimed(Target.all_linked, known=known).destinations) == [who("chat", conversation="c2"), MAIL]
    older = who("chat", conversation="c1", verified=False)
    assert list(aimed(Target.identity(older), known=known).destinations) == [CHAT]


def test_two_users_of_one_key_on_a_channel_are_both_meant():
    known = KNOWN.with_(who("mail", "work"), 950.0)
    assert list(aimed(Target.channel("mail"), known=known).destinations) == [who("mail", "work"), MAIL]


# --- whom an actor knows

names = st.sampled_from(["ada", "eve", "bob"])
identities = st.builds(
    who,
    st.sampled_from(["chat", "mail", "wire"]),
    names,
    st.sampled_from(["", "c1", "c2"]),
    verified=st.booleans(),
    seat=st.integers(0, 2),
)
steps = st.lists(st.tuples(identities, st.floats(0.1, 200)), max_size=30)


@given(steps)
def test_it_knows_who_was_seen_and_where_last(steps: list[tuple[Any, float]]):
    known, at, last = Identities(), 1000.0, dict[Any, Any]()
    for identity, later in steps:
        at += later
        before, known = known, known.with_(identity, at)
        if not identity.verified:
            assert known is before
            continue
        place = (identity.channel, identity.native_id, identity.conversation)
        last.pop(place, None)
        last = {place: identity, **last}
        assert known.seen[0].identity == identity == known.active(None, at)
        assert at - known.seen[0].at < 60
    assert [one.identity for one in known.seen] == list(last.values())
    assert all(known.known(one) == one for one in last.values() if one.conversation)
    again = Identities.decode(known.encode())
    assert [(one.identity, round(one.at, 3)) for one in known.seen] == [(one.identity, one.at) for one in again.seen]
    assert len({(one.channel, one.native_id) for one in known.all()}) == len(known.all())
    assert {one.native_id for one in known.on("chat")} == {name for channel, name, _ in last if channel == "chat"}


def test_what_was_seen_earlier_changes_nothing():
    assert KNOWN.with_(CHAT, 900.0) is KNOWN
    assert KNOWN.with_(None, 930.0) is KNOWN
    assert KNOWN.with_(who("chat", conversation="c1", verified=False), 930.0) is KNOWN
    assert KNOWN.with_(MAIL, 850.0).active(None, 1000.0) == CHAT, "a message that came before, and ended later"
    assert KNOWN.with_(CHAT, 930.0).active(50.0, 980.0) == CHAT


def test_what_is_worth_writing():
    assert not KNOWN.news_to(KNOWN)
    assert not KNOWN.with_(CHAT, 959.0).news_to(KNOWN)
    assert not KNOWN.with_(MAIL, 850.0).news_to(KNOWN)
    for changed in (KNOWN.with_(CHAT, 960.0), KNOWN.with_(MAIL, 901.0), KNOWN.with_(MAIL, 860.0)):
        assert changed.news_to(KNOWN)
    for other in (who("chat", name="A.", conversation="c1"), who("chat", "eve")):
        assert KNOWN.with_(other, 901.0).news_to(KNOWN)
    assert KNOWN.news_to(Identities())


def test_those_who_were_not_seen_the_longest_are_forgotten():
    known = Identities()
    for number in range(100):
        known = known.with_(who("chat", f"user-{number}"), 1000.0 + number)
    assert [one.identity.native_id for one in known.seen] == [f"user-{number}" for number in range(99, 35, -1)]


def test_a_newer_format_is_not_misread():
    with pytest.raises(FormatTooNew):
        Identities.decode(pack({"v": 99}, "identities"))


def test_without_a_document_nobody_is_known():
    assert Identities.decode(None) == Identities()
    assert Identities().active(None, 0.0) is None


@pytest.mark.parametrize(
    "target",
    [
        Target.all_linked,
        Target.channel("group"),
        Target.identities([who("group", "ada", "room"), who("group", "bob", "room")]),
    ],
)
def test_in_a_place_where_several_are_it_is_said_once(target: ResponseTarget):
    bob, ada, alone = who("group", "bob", "room"), who("group", "ada", "room"), who("group", "eve", "eve")
    known = Identities().with_(alone, 1.0).with_(bob, 2.0).with_(ada, 3.0)
    reached = aimed(target, known=known).destinations
    assert reached[0] == ada
    assert bob not in reached
    assert (alone in reached) == (target.kind != "identities")
