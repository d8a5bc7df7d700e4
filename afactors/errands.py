"""What a command may ask to be done about deliveries and actors, and the answers: plain data, a line each.

The command line does it itself where no server runs, and has the server do it where one does: the same lines, either
way.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from afactors_channels import BadRequest, HostError
from afactors_store import Store

from .deliveries import Deliveries, DeliveryFilter
from .portable import ActorExport
from .views import DeliveryView

VERSION = 1
_PAGE = 100

Answer: TypeAlias = Mapping[str, Any]
"""``{"delivery": {…}}`` or ``{"key": …}``, as many as there are; then ``{"done": {…}}`` with figures, or
``{"error": {code, message}}`` instead."""

Errand: TypeAlias = Literal[
    "deliveries.list",
    "deliveries.show",
    "deliveries.replay",
    "deliveries.purge",
    "deliveries.statistics",
    "actors.list",
    "actors.export",
    "actors.import",
    "actors.erase",
]


class Actors(Protocol):
    """What a runtime does to single actors."""

    @property
    def store(self) -> Store:
        """Where they live."""
        ...

    async def export_actor(self, isolation_key: str, path: str) -> ActorExport:
        """Write an actor to a file."""
        ...

    async def import_actor(self, path: str, *, isolation_key: str | None = None) -> ActorExport:
        """Make an actor of a file."""
        ...

    async def erase_actor(self, isolation_key: str) -> bool:
        """Erase an actor; whether there was anything."""
        ...


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What somebody wants done. What it says and we do not know may be a filter: so it is refused.

    Attributes:
        do: What.
        v: Version of the whole.
        ids: Of which deliveries.
        all: Of all of them.
        state: Only of these.
        limit: The most to list; None for all.
        channel: See `DeliveryFilter`.
        key: See there; of actors, which one.
        reason: See there.
        older_than: See there.
        file: Of actors, the file's absolute path.
    """

    do: Errand
    v: int = VERSION
    ids: Sequence[str] = ()
    all: bool = False
    state: Literal["pending", "dead"] | None = None
    limit: int | None = None
    channel: str | None = None
    key: str | None = None
    reason: str | None = None
    older_than: float | None = None
    file: str = ""

    @property
    def which(self) -> DeliveryFilter:
        """The filter in it."""
        return {"channel": self.channel, "key": self.key, "reason": self.reason, "older_than": self.older_than}

    def encode(self) -> bytes:
        """As a line."""
        plain = msgspec.to_builtins(self)
        return line({"do": self.do, "v": self.v, **plain})

    @classmethod
    def decode(cls, data: bytes) -> Asked:
        """Read what `encode` wrote.

        Raises:
            BadRequest: `unknown_request`: it is none that this version knows.
        """
        try:
            asked = msgspec.convert(json.loads(data), cls)
        except (ValueError, RecursionError) as exc:
            raise BadRequest(f"This server cannot do that: {exc}", code="unknown_request") from exc
        if asked.v != VERSION:
            raise BadRequest(f"This server knows version {VERSION} only.", code="unknown_request")
        return asked


def line(answer: Answer) -> bytes:
    """One answer as a line; what JSON's readers might stumble over is escaped."""
    return json.dumps(answer).encode() + b"\n"


def failure(error: HostError) -> Answer:
    """The answer to what cannot be done."""
    return {"error": {"code": error.code, "message": error.message}}


async def answers(asked: Asked, deliveries: Deliveries, actors: Actors | None = None) -> AsyncGenerator[Answer, None]:
    """Do what is asked.

    Args:
        asked: What.
        deliveries: Who does it to deliveries.
        actors: Who does it to actors, if anybody.

    Raises:
        HostError: It cannot be done.
    """
    if asked.do.startswith("actors."):
        if actors is None:
            raise BadRequest("Nobody here can do that.", code="unknown_request")
        async with aclosing(_of_actors(asked, actors)) as each:
            async for answer in each:
                yield answer
    elif asked.do == "deliveries.list":
        async with aclosing(_listed(asked, deliveries)) as listed:
            async for answer in listed:
                yield answer
    elif asked.do == "deliveries.show":
        for one in asked.ids:
            yield {"delivery": asdict(await deliveries.show(one))}
        yield {"done": {}}
    elif asked.do == "deliveries.statistics":
        yield {"done": asdict(deliveries.statistics())}
    else:
        yield {"done": await _decided(asked, deliveries)}


async def _listed(asked: Asked, deliveries: Deliveries) -> AsyncGenerator[Answer, None]:
    listed, more = 0, False
    async with aclosing(_each(asked, deliveries)) as each:
        async for one in each:
            if more := listed == asked.limit:  # a cursor alone does not say whether there is anything behind it
                break
            yield {"delivery": asdict(one)}
            listed += 1
    yield {"done": {"listed": listed, "more": more}}


async def _each(asked: Asked, deliveries: Deliveries) -> AsyncGenerator[DeliveryView, None]:
    after: str | None = None
    while True:
        page = await deliveries.list(state=asked.state, limit=_PAGE, after=after, **asked.which)
        for one in page.deliveries:
            yield one
        if (after := page.after) is None:
            return


async def _of_actors(asked: Asked, actors: Actors) -> AsyncGenerator[Answer, None]:
    try:
        if asked.do == "actors.list":
            after = None
            while found := await actors.store.keys(after, _PAGE):
                for after in found:
                    yield {"key": after}
            yield {"done": {}}
        elif asked.do == "actors.erase":
            yield {"done": {"existed": await actors.erase_actor(asked.key or "")}}
        elif asked.do == "actors.export":
            yield {"done": asdict(await actors.export_actor(asked.key or "", asked.file))}
        else:
            yield {"done": asdict(await actors.import_actor(asked.file, isolation_key=asked.key))}
    except OSError as exc:
        raise BadRequest(f"{asked.file}: {exc.strerror or exc}", code="unusable_path") from exc


async def _decided(asked: Asked, deliveries: Deliveries) -> Mapping[str, int]:
    try:
        if asked.do == "deliveries.replay":
            done, left = await deliveries.replayed(*asked.ids, all=asked.all, **asked.which)
            return {"replayed": done, "left": left}
        return {"purged": await deliveries.purge(*asked.ids, all=asked.all, **asked.which)}
    except ValueError as exc:
        raise BadRequest(f"{str(exc).capitalize()}.") from exc
