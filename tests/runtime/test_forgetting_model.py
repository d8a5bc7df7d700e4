"""Turns, branches and deletions at random: what has a name reads back whole, and of what has none no row is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import AgentSession
from trio.abc import Clock

from afactors.sessions import messages_at
from afactors_channels import ChannelRequest, SessionEdit
from tests.runtime.conftest import messages_in
from tests.runtime.flows import debris, logs_of

House = Any  # of conftest

STEPS = ["say"] * 8 + ["go_on"] * 4 + ["forget"] * 4 + ["begin", "remove", "remove", "delete", "sleep"]
KINDS = ["plain", "noting", "squeezing"]  # what a turn does beside: it changes the session's state, or its history


@dataclass
class Place:
    """What a session says at some point: its messages, and a note in the rest of its state."""

    said: list[str] = field(default_factory=list)
    note: str = ""

    def after(self, text: str, kind: str) -> Place:
        said = [*(self.said[-2:] if kind == "squeezing" else self.said), text, f"re-{text}"]
        return Place(said, f"note-{text}" if kind == "noting" else self.note)

    @property
    def texts(self) -> set[str]:
        return {*self.said, *([self.note] if self.note else ())}


@dataclass
class Play:
    """One key's sessions, and what they should be."""

    house: House
    chance: Random
    names: dict[str, Place] = field(default_factory=dict)
    talks: dict[str, Place] = field(default_factory=dict)
    ever: set[str] = field(default_factory=set)
    numbers: Any = field(default_factory=count)

    async def turn(
        self, before: Place, name: str | None, session: str | None = None, after: str | None = None
    ) -> Place:
        kind = self.chance.choice(KINDS)
        text = f"<{next(self.numbers)}>"

        async def answer(_request: ChannelRequest, session: AgentSession | None) -> str:
            assert session is not None
            if kind == "squeezing":
                messages = messages_in(session)
                del messages[:-3]
            elif kind == "noting":
                session.state["notes"] = {"last": f"note-{text}"}
            return f"re-{text}"

        self.house.target.on[text] = answer
        await self.house.ask(text, session, after=after, name=name)
        place = before.after(text, kind)
        self.ever |= place.texts
        if name is not None:
            self.names[name] = place
        return place

    def new_name(self) -> str | None:
        return f"r{next(self.numbers)}" if self.chance.random() < 0.6 else None

    async def say(self) -> None:
        talk = self.chance.choice("aab")
        self.talks[talk] = await self.turn(self.talks.get(talk, Place()), self.new_name(), talk)

    async def begin(self) -> None:
        await self.turn(Place(), f"r{next(self.numbers)}")

    async def go_on(self) -> None:
        if self.names:
            after = self.chance.choice(list(self.names))
            await self.turn(self.names[after], self.new_name(), after=after)

    async def forget(self) -> None:
        if self.names:
            name = self.chance.choice(list(self.names))
            await self.house.runtime.forget(name)
            del self.names[name]

    async def remove(self) -> None:
        if self.talks:
            talk = self.chance.choice(list(self.talks))
            said, messages = self.talks[talk].said, await self.stored(talk)
            at = self.chance.choice([at for at, message in enumerate(messages) if "message_id" in message] or [None])
            if at is not None:
                await self.edit(talk, remove=[(messages[at]["message_id"], ())])
                self.talks[talk] = Place([*said[:at], *said[at + 1 :]], self.talks[talk].note)

    async def delete(self) -> None:
        if self.talks:
            talk = self.chance.choice(list(self.talks))
            await self.edit(talk, delete=True)
            del self.talks[talk]

    async def sleep(self) -> None:
        await trio.sleep(100)  # and the actor is passivated

    async def edit(self, talk: str, **change: Any) -> None:
        await self.house.runtime.edit_session(self.house.request("", talk), SessionEdit(**change))

    async def stored(self, talk: str) -> Sequence[Any]:
        return (await self.house.runtime.get_session(self.house.request("", talk))).messages

    async def check(self) -> None:
        """What the store has is what it should have, and nothing else."""
        store = self.house.store
        for name, place in self.names.items():
            point = await self.house.point(name)
            assert self.house.said(await messages_at(store, "ada", point)) == place.said, name
            if point.state is not None:
                assert place.note.encode() in (await store.read_log(await store.claim("ada"), *point.state, 1 << 20))[0]
        for talk, place in self.talks.items():
            assert self.house.said(await self.stored(talk)) == place.said, talk
        assert await debris(store) == (set(), [])

    async def left(self) -> set[str]:
        rows = self.house.store._open_here().engine.read(lambda kv: b"".join(row for _, row in kv.scan(b"", b"\xff")))
        return {text for text in self.ever if text.encode() in rows}


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_is_deleted_in_whatever_order(autojump_clock: Clock, house: House, seed: int):
    chance = Random(seed)  # noqa: S311 - a test's
    one = Play(house, chance)
    async with house.open(idle_timeout=50.0):
        await house.ask("to keep", "kept")  # or the whole key would go with the last name
        kept = logs_of(house.store)
        for step in chance.choices(STEPS, k=30):
            await getattr(one, step)()
            await one.check()
        while one.names or one.talks:
            await getattr(one, chance.choice(["forget", "delete", "remove"]))()
            await one.check()
        assert await one.left() == set()
        assert logs_of(house.store) == kept
    async with house.open():
        assert await house.ask("more", "kept") == "to keep more"
