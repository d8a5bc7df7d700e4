"""What is stored of a delivery, and in which lane: pure."""

from typing import Any

import pytest
from agent_framework import AgentResponse, Message
from hypothesis import given
from hypothesis import strategies as st

from afactors.encoding import encode_messages, pack
from afactors.outbox import Parcel, UnknownVersion, channel_of, destination_of, lane_of, posted
from afactors_channels import ChannelContribution, ChannelIdentity
from afactors_channels.pushes import PushPolicy, RetryPolicy
from afactors_store import MAX_NAME_BYTES

texts = st.text(max_size=40)
# A unit separator is in no platform's ids; whatever else a webhook's sender writes may be.
ids = st.text(
    st.one_of(st.characters(exclude_characters="\x1f"), st.sampled_from("\0\ud800\udfff")), min_size=1, max_size=300
)
plain = st.dictionaries(texts, st.one_of(st.none(), st.booleans(), st.integers(), texts), max_size=3)
identities = st.builds(
    ChannelIdentity,
    st.sampled_from(["chat", "mail", "a-long-name-of-a-channel"]),
    ids,
    plain,
    st.one_of(st.just(""), ids),
    st.just(True),
)
parcels = st.builds(
    Parcel,
    identities,
    st.sampled_from(["reply", "echo", "message"]),
    st.lists(texts, max_size=3).map(lambda said: encode_messages([Message("assistant", [text]) for text in said])),
    st.integers(0, 10**13).map(lambda ms: ms / 1000),
    st.integers(0, 10**13).map(lambda ms: ms / 1000),
    run_id=texts,
    origin=texts,
    payload=st.one_of(st.none(), plain.filter(bool)),
    outcome=st.fixed_dictionaries({}, optional={"f": st.just("stop"), "id": st.just("resp_1")}),
)


@given(parcels)
def test_a_parcel_is_read_as_it_was_written(parcel: Parcel):
    assert Parcel.decode(parcel.encode()) == parcel


@given(parcels)
def test_whoever_reads_it_gets_a_copy_of_their_own(parcel: Parcel):
    one, two = parcel.response, parcel.response
    for message in one.messages:
        message.additional_properties["mine"] = True
    assert [message.text for message in one.messages] == [message.text for message in two.messages]
    assert not any("mine" in message.additional_properties for message in two.messages)


@given(st.one_of(st.binary(max_size=60), st.dictionaries(texts, st.integers()).map(lambda d: pack(d, "x"))))
def test_what_nobody_understands_is_of_an_unknown_version(body: bytes):
    with pytest.raises(UnknownVersion):
        Parcel.decode(body)


@pytest.mark.parametrize(
    "change",
    [{"v": 2}, {"v": "1"}, {"v": None}, {"to": ["chat"]}, {"to": 7}, {"x": "soon"}, {"c": None}, {"x": [1]}],
)
def test_a_record_that_is_not_as_it_should_be_is_of_an_unknown_version(change: dict[str, Any]):
    record = {"v": 1, "to": ["chat", "ada", "", {}], "k": "reply", "m": [], "c": 1.0, "x": 2.0}
    assert Parcel.decode(pack(record, "x")).identity == ChannelIdentity("chat", "ada", {}, "", True)
    with pytest.raises(UnknownVersion):
        Parcel.decode(pack(record | change, "x"))


# --- lanes


@given(identities)
def test_a_lane_has_a_name_that_can_be_stored_and_tells_its_channel(identity: ChannelIdentity):
    lane = lane_of(identity)
    assert 0 < len(lane.encode()) <= MAX_NAME_BYTES
    assert "\0" not in lane
    assert channel_of(lane) == identity.channel
    assert destination_of(lane).startswith(identity.channel)


@given(identities, identities)
def test_every_destination_has_a_lane_of_its_own(one: ChannelIdentity, two: ChannelIdentity):
    places = [(each.channel, each.native_id, each.conversation) for each in (one, two)]
    assert (lane_of(one) == lane_of(two)) == (places[0] == places[1])


def test_conversations_of_one_user_are_one_destination():
    one, two = (ChannelIdentity("chat", "ada", conversation=name) for name in ("c1", "c2"))
    assert lane_of(one) != lane_of(two)
    assert destination_of(lane_of(one)) == destination_of(lane_of(two))


# --- what a commit gets


class Codec:
    def encode(self, response: AgentResponse[Any], identity: ChannelIdentity) -> dict[str, Any]:
        return {"v": 1, "for": identity.native_id, "text": response.text.upper()}

    def check(self, payload: Any) -> None:
        raise AssertionError("not now")


async def push(_push: Any) -> None:
    """Nobody calls it."""


def test_each_destination_gets_a_delivery_as_its_channel_takes_them():
    day = PushPolicy(retry=RetryPolicy(max_age=86_400.0))
    hour = PushPolicy(retry=RetryPolicy(max_age=3600.0, longest=60.0))
    channels = {
        "chat": ChannelContribution(push=push, push_policy=hour, push_codec=Codec()),
        "mail": ChannelContribution(push=push, push_policy=day),
    }
    to = [ChannelIdentity(name, "ada", verified=True) for name in ("chat", "mail", "gone")]
    said: AgentResponse[Any] = AgentResponse(
        messages=[Message("assistant", ["Hello"])], response_id="resp_1", finish_reason="stop"
    )
    made = posted("reply", to, said, channels, at=1000.0, run_id="run_1", origin="wire")
    assert [one.lane for one in made] == [lane_of(identity) for identity in to]
    chat, mail, gone = (Parcel.decode(one.body) for one in made)
    assert [one.identity for one in (chat, mail, gone)] == to
    assert (chat.expires, mail.expires) == (4600.0, 87_400.0)
    assert (chat.payload, mail.payload) == ({"v": 1, "for": "ada", "text": "HELLO"}, None)
    for one in (chat, mail, gone):
        assert (one.kind, one.created, one.run_id, one.origin) == ("reply", 1000.0, "run_1", "wire")
        assert (one.response.text, one.response.response_id, one.response.finish_reason) == ("Hello", "resp_1", "stop")


def test_to_nobody_is_nothing():
    assert posted("reply", [], AgentResponse(messages=[]), {}, at=0.0) == []


def test_what_goes_to_one_place_goes_in_order():
    room = ChannelContribution(push_place=lambda identity: identity.conversation or identity.native_id)
    ada, bob = (ChannelIdentity("group", name, conversation="room") for name in ("ada", "bob"))
    alone = ChannelIdentity("group", "ada")
    said: Any = AgentResponse(messages=[Message("assistant", ["hello"])])
    lanes = [one.lane for one in posted("message", [ada, bob, alone], said, {"group": room}, at=0.0)]
    assert lanes[0] == lanes[1] != lanes[2]
    assert {channel_of(lane) for lane in lanes} == {"group"}
    assert len({destination_of(lane) for lane in lanes}) == 2
