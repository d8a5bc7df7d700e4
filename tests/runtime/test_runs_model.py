"""Mailboxes, overlap policies, cancels, failures, crashes and restarts at random, beside what must hold of them.

The target holds every turn until its gate is opened. What callers were told is noted as it is told; what a process says
after its crash is not. At the end every gate is opened and everything runs out, and then the store, what was told and
what ran must agree.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from afactors.history import Point
from afactors.runs import ENDED
from afactors_channels import HostedRun, HostError, NotFound, Repeated, Restarted, SessionEdit
from afactors_store import StoreUnusable, keys

blocked = trio.testing.wait_all_tasks_blocked
House = Any  # of conftest

MAX_ATTEMPTS = 3
PLACES = [("ada", "s"), ("ada", "t"), ("bob", "s"), ("bob", "t")]
LONG_AFTER = 100 * 365 * 86_400.0


# --- what is done


places = st.sampled_from(PLACES)
policies = st.sampled_from([None, "enqueue", "reject", "interrupt", "latest", "coalesce"])
picks = st.integers(0, 7)
calm = st.sampled_from([True, True, False])  # whether everything comes to rest after the step
STEPS = st.one_of(
    st.tuples(st.just("submit"), calm, places, policies, st.booleans()),
    st.tuples(st.just("submit"), calm, places, policies, st.booleans()),
    st.tuples(st.just("ask"), calm, places, policies, st.booleans()),
    st.tuples(st.just("ask"), calm, places, policies, st.booleans()),
    st.tuples(st.just("burst"), calm, places, st.booleans(), st.booleans()),
    st.tuples(st.just("burst"), calm, places, st.just(True), st.booleans()),
    st.tuples(st.just("proceed"), calm, picks, st.booleans()),
    st.tuples(st.just("proceed"), calm, picks, st.just(True)),
    st.tuples(st.just("cancel"), calm, picks),
    st.tuples(st.just("hang_up"), calm, picks),
    st.tuples(st.just("repeat"), calm, picks, places),
    st.tuples(st.just("follow"), calm, picks, st.sampled_from([None, 0, 3, "on"])),
    st.tuples(st.just("edit"), calm, places),
    st.tuples(st.just("crash_actor"), calm, st.sampled_from(["ada", "bob"])),
    st.tuples(st.just("wait"), calm, st.sampled_from([0.3, 30.0])),
    st.tuples(st.just("stop"), calm, st.booleans()),
    st.tuples(st.just("crash"), calm),
    st.tuples(st.just("crash"), calm),
)
Step = tuple[Any, ...]


@dataclass(eq=False)
class Sent:
    """A message, and what its caller was told of it."""

    text: str
    place: tuple[str, str]
    durable: bool
    streams: bool
    policy: str | None
    sent: int
    known: int | None = None
    """When its place in line was settled: it was acknowledged, or delivered to wait for."""
    token: str | None = None
    refused: str | None = None
    told: list[HostedRun] = field(default_factory=list)
    answer: str | None = None
    error: str | None = None
    hung_up: trio.CancelScope = field(default_factory=trio.CancelScope)
    replaces: Sequence[str] = ()
    """What ran, and could not end by itself, when it came to take its place."""
    crashes: int = 0
    """Crashes that it may have run in."""
    process_crashes: int = 0
    stops: int = 0


class World:
    """One process after the other over one store, and everybody who asks something of them."""

    def __init__(self, house: House, slowness: int) -> None:
        self.house = house
        self.sent: list[Sent] = []
        self.edits: list[tuple[tuple[str, str], str]] = []
        self.rows: dict[tuple[str, int], bytes] = {}
        self.read_last: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.started: list[str] = []
        self.attempts: dict[str, tuple[int, int, int]] = {}
        self.at_rest = True
        self.running: Counter[tuple[str, str]] = Counter()
        self.alive = True
        self.callers: trio.Nursery
        self._clock: Iterator[int] = count()
        self._texts = count()
        self._slowness = slowness
        self._crash_at: set[str] = set()
        house.store.before = self._before
        house.target.run = self._watched(house.target.run)

    # -- the surroundings

    async def _before(self, method: str, key: str) -> None:
        for _ in range(self._slowness):
            await trio.lowlevel.checkpoint()
        if method == "commit" and key in self._crash_at:
            self._crash_at.discard(key)
            raise RuntimeError("a defect")

    def _watched(self, run: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def watched(turn: Any, session: Any) -> Any:
            place = (turn.key, turn.session_id)
            if self.alive:
                for text in self.house.said(turn.request.input):
                    self._note_start(text, turn.attempt)
            self.running[place] += 1
            if self.running[place] > 1:
                self.faults.append(f"two turns at once in {place}")
            try:
                return await run(turn, session)
            finally:
                self.running[place] -= 1

        return watched

    def _note_start(self, text: str, attempt: int) -> None:
        """A turn that begins again after a crash is counted (unless a stop in order came in between)."""
        self.started.append(text)
        (one,) = [one for one in self.sent if one.text == text]
        before, crashes, stops = self.attempts.get(text, (0, one.process_crashes, 0))
        if attempt < before or (attempt == before and one.process_crashes > crashes and one.stops == stops):
            self.faults.append(f"{text}: attempt {attempt} after attempt {before}")
        self.attempts[text] = attempt, one.process_crashes, one.stops

    @asynccontextmanager
    async def process(self) -> Any:
        """A life of the runtime; callers that are there at its end hear of it."""
        async with trio.open_nursery() as self.callers:
            async with self.house.open(
                max_attempts=MAX_ATTEMPTS,
                max_restarts=10_000,
                restart_backoff=0.01,
                idle_timeout=10.0,
                mailbox=6,
                coalesce_quiet=self._slowness % 2 * 0.2,
            ) as runtime:
                self.alive = True
                self._crash_at.clear()
                self._note_deliveries(runtime)
                yield runtime
            await blocked()
        self.running.clear()

    def _note_deliveries(self, runtime: Any) -> None:
        supervisor = runtime._opened_now().supervisor
        deliver = supervisor.deliver

        def noting(turn: Any, *args: Any) -> None:
            deliver(turn, *args)
            if not turn.durable and turn.edit is None:
                (one,) = [one for one in self.sent if one.text == self.house.said(turn.request.input)[0]]
                one.known = next(self._clock)
                one.replaces = self._held(one.replaces)

        supervisor.deliver = noting

    def _begin(self, call: Callable[[], Awaitable[None]]) -> None:
        async def guarded() -> None:
            try:
                await call()
            except StoreUnusable:
                pass  # it is closed by now, and so is the runtime
            except (HostError, Repeated) as error:
                if self.alive:
                    self.faults.append(f"unexpected: {error!r}")

        self.callers.start_soon(guarded)

    # -- steps

    async def do(self, step: Step) -> None:
        what, rests, *args = step
        await getattr(self, what)(*args)
        self.at_rest = rests
        if rests:
            await blocked()
        else:
            await trio.lowlevel.checkpoint()

    def _new(self, place: tuple[str, str], policy: Any, *, durable: bool, streams: bool) -> Sent:
        one = Sent(f"t{next(self._texts)}", place, durable, streams, policy, next(self._clock))
        self.house.target.hold(one.text)
        self.sent.append(one)
        return one

    def _request(self, one: Sent, policy: Any, key: str | None = None) -> Any:
        key = key or one.text
        return self.house.request(
            one.text,
            one.place[1],
            key=one.place[0],
            name=f"p-{one.text}",
            overlap=policy,
            stream=one.streams,
            idempotency_key=key,
            fingerprint=key,
        )

    def _replaced(self, place: tuple[str, str], policy: Any) -> Sequence[str]:
        if policy != "interrupt" or not self.at_rest or place[0] in self._crash_at:
            return ()
        here = [one.text for one in self.sent if one.place == place]
        return self._held([text for text in self.house.target.running if text in here])

    def _held(self, texts: Sequence[str]) -> Sequence[str]:
        return [text for text in texts if not self.house.target.hold(text).is_set()]

    async def submit(self, place: tuple[str, str], policy: Any, streams: bool, key: str | None = None) -> None:
        one = self._new(place, policy, durable=True, streams=streams)
        one.replaces = self._replaced(place, policy)

        async def call() -> None:
            try:
                token = await self.house.runtime.submit(self._request(one, policy, key))
            except HostError as error:
                if self.alive:
                    one.refused = error.code
            else:
                if self.alive:
                    one.known, one.token = next(self._clock), token
                    one.replaces = self._held(one.replaces)

        self._begin(call)

    async def ask(self, place: tuple[str, str], policy: Any, streams: bool) -> None:
        one = self._new(place, policy, durable=False, streams=streams)
        one.replaces = self._replaced(place, policy)

        async def call() -> None:
            with one.hung_up:
                try:
                    result = await self.house.runtime.ask(self._request(one, policy))
                except HostError as error:
                    if self.alive:
                        one.error = error.code
                        one.refused = error.code if one.known is None else None
                else:
                    if self.alive:
                        one.answer = result.result.text

        self._begin(call)

    async def burst(self, place: tuple[str, str], durable: bool, streams: bool) -> None:
        """Somebody has more to say than fits into one message."""
        for _ in range(3):
            await (self.submit if durable else self.ask)(place, "coalesce", streams and durable)

    async def repeat(self, pick: int, place: tuple[str, str]) -> None:
        """Somebody sends it again: with another text and another place, which only counts if the first has gone."""
        if (one := self._pick(self.sent, pick)) is None or one.refused is not None:
            return
        await self.submit(place, "enqueue", False, one.text)

    async def proceed(self, pick: int, well: bool) -> None:
        """Let a turn that runs come to its end."""
        if (text := self._pick(self.house.target.running, pick)) is None:
            return
        if not well:
            self.house.target.on[text] = _fail
        self.house.target.hold(text).set()

    async def cancel(self, pick: int) -> None:
        if (one := self._pick(self.sent, pick)) is None:
            return

        async def call() -> None:
            try:
                run = await self.house.runtime.cancel(f"p-{one.text}")
            except HostError as error:
                if self.alive and not isinstance(error, NotFound) and error.code != "draining":
                    raise
            else:
                if self.alive:
                    one.told.append(run)

        self._begin(call)

    async def hang_up(self, pick: int) -> None:
        if (one := self._pick([one for one in self.sent if not one.durable], pick)) is not None:
            one.hung_up.cancel()

    async def follow(self, pick: int, after: Any) -> None:
        """From a number on, or from where somebody else has read to."""
        if (one := self._pick(self.sent, pick)) is None:
            return
        last = self.read_last.get(one.text) if after == "on" else None
        if last is not None:
            self._begin(lambda: self.read(one, int(last.split()[0]), last))
        elif after != "on":
            self._begin(lambda: self.read(one, after))

    async def read(self, one: Sent, after: int | None, last: bytes | None = None) -> None:
        """Follow a run. Whoever reads a number reads the same; and nobody reads of two attempts."""
        expected = after + 1 if after is not None else None
        try:
            async with self.house.runtime.subscribe(f"p-{one.text}", after=after) as batches:
                async for batch in batches:
                    for row in batch:
                        if not self.alive or not one.streams:
                            return
                        number = int(row.split()[0])
                        if expected not in (None, number):
                            self.faults.append(f"{one.text}: {number} instead of {expected}")
                        if self.rows.setdefault((one.text, number), row) != row:
                            self.faults.append(f"{one.text}: {row!r} and {self.rows[one.text, number]!r}")
                        if last is not None and _attempt(row) != _attempt(last) and b"queued" not in last:
                            self.faults.append(f"{one.text}: {row!r} follows {last!r}")
                        expected, last = number + 1, row
                        self.read_last[one.text] = row
        except (NotFound, Restarted):
            pass
        except HostError as error:
            if self.alive and error.code != "draining":
                raise

    async def edit(self, place: tuple[str, str]) -> None:
        key, session = place
        text = f"e{next(self._texts)}"

        async def call() -> None:
            request = self.house.request("", session, key=key)
            message = self.house.request(text).input
            try:
                await self.house.runtime.edit_session(request, SessionEdit(append=message))
            except HostError as error:
                if self.alive and error.code not in ("session_not_found", "draining", "server_error", "mailbox_full"):
                    raise
            else:
                if self.alive:
                    self.edits.append((place, text))

        self._begin(call)

    async def crash_actor(self, key: str) -> None:
        """A defect shows at its next commit."""
        self._crash_at.add(key)
        for one in self.sent:
            one.crashes += one.place[0] == key

    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def stop(self, ends: bool) -> None:
        """In order; what runs may come to its end meanwhile."""
        for one in self.sent:
            one.stops += 1

        async def let_end() -> None:
            for _ in range(4):
                await trio.sleep(1)
                for text in self.house.target.running:
                    self.house.target.hold(text).set()

        if ends:
            self.callers.start_soon(let_end)

    async def crash(self) -> None:
        self.alive = False
        self.house.store.crash()
        for one in self.sent:
            one.crashes += 1
            one.process_crashes += 1

    @staticmethod
    def _pick(among: Sequence[Any], pick: int) -> Any:
        return among[-1 - pick % len(among)] if among else None  # mostly one of the latest

    # -- what must hold

    async def run_out(self) -> None:
        """Let everything end."""
        self._crash_at.clear()
        for one in self.sent:
            self.house.target.hold(one.text).set()
        await blocked()
        await trio.sleep(60)
        await blocked()

    async def check(self) -> None:
        runtime = self.house.runtime
        runs: dict[str, HostedRun] = {}
        for one in self.sent:
            with_name = f"p-{one.text}"
            try:
                runs[one.text] = await runtime.get_continuation(with_name, wait=True)
            except NotFound:
                assert not one.durable or one.token != with_name, f"{one.text} was acknowledged, and is lost"
        for one in self.sent:
            self._check_one(one, runs)
        for place in PLACES:
            await self._check_history(place, runs)
        for one in self.sent:
            if one.text in runs:
                await self.read(one, None)
        await self._check_leftovers()
        assert self.faults == []

    def _check_one(self, one: Sent, runs: dict[str, HostedRun]) -> None:
        run = runs.get(one.text)
        starts = self.started.count(one.text)
        joined = one.token is not None and one.token != f"p-{one.text}"
        if one.refused is not None or joined:
            assert run is None, "it left nothing"
            assert not starts
            return
        assert run is None or run.state in ENDED
        assert run is None or (run.result is not None) == (run.state == "completed")
        if run is not None:
            assert run.attempt <= MAX_ATTEMPTS
            assert starts <= (MAX_ATTEMPTS + one.stops if one.durable else 1)
            assert run.attempt <= 1 + one.crashes
        if run is not None and run.error is not None and run.error[0] == "attempts_exhausted":
            assert one.crashes >= MAX_ATTEMPTS
        if run is not None and run.error is not None and run.error[0] == "superseded":
            others = [other for other in self.sent if other.place == one.place and other is not one]
            assert any(other.policy == "latest" for other in others)
            assert not starts or one.crashes or one.stops
        if one.answer is not None and run is not None:
            assert (run.state, run.result.text) == ("completed", one.answer)
        if one.error is not None and one.known is not None:
            assert run is None or run.state != "completed", f"{one.text}: its caller heard {one.error}"
        if run is not None and (one.known is not None if one.durable else one.answer is not None):
            for text in one.replaces:
                assert text not in runs or runs[text].state != "completed", f"{one.text} took the place of {text}"
        for told in one.told:
            assert run is not None
            assert (told.state, told.error, told.ended) == (run.state, run.error, run.ended)

    async def _check_history(self, place: tuple[str, str], runs: dict[str, HostedRun]) -> None:
        """The completed turns' texts, each once, in order; and each answer tells what came before it."""
        here = [one for one in self.sent if one.place == place and one.text in runs]
        completed = [one for one in here if runs[one.text].state == "completed"]
        edits = {text for where, text in self.edits if where == place}
        try:
            session = await self.house.runtime.get_session(self.house.request("", place[1], key=place[0]))
        except NotFound:
            assert completed == []
            assert not edits
            return
        said = self.house.said(session.messages)
        users = [text for text in said if len(text.split()) == 1 and text[:1] in "te"]
        assert all(said.count(text) <= 2 for text in users)
        order = list(dict.fromkeys(users))
        assert edits <= set(order), "an edit that was told is there"
        turns = [text for text in order if text.startswith("t")]
        assert sorted(turns) == sorted(one.text for one in completed)
        for one in completed:
            seen = runs[one.text].result.text.split()
            together = [other for other in completed if runs[other.text].run_id == runs[one.text].run_id]
            assert seen == order[: max(order.index(other.text) for other in together) + 1]
            assert len(together) == 1 or {other.policy for other in together} == {"coalesce"}
        for one in completed:
            for other in completed:
                if one.known is not None and one.known < other.sent:
                    assert turns.index(one.text) < turns.index(other.text), f"{other.text} overtook {one.text}"

    async def _check_leftovers(self) -> None:
        """When all that may expire has expired, only sessions are left."""
        store = self.house.store
        while await store.expire(time.time() + LONG_AFTER):
            pass
        rows = store._opened.engine.read(lambda kv: dict(kv.scan(b"\0", b"\xff" * 9)))
        tables: dict[bytes, list[tuple[bytes, bytes, bytes]]] = defaultdict(list)
        for row, value in rows.items():
            if row[:1] == keys.ROWS:
                tables[row[9:10]].append((row[1:9], row[10:], value))
        assert not tables[keys.LETTER]
        assert not tables[keys.RUN]
        needed: set[tuple[bytes, int]] = set()
        for number, name, value in tables[keys.DOCUMENT]:
            if name.startswith(b"session"):
                needed |= {(number, log) for log in Point.decode(value).logs()}
        left = {(number, int.from_bytes(rest[:8], "big")) for number, rest, _ in tables[keys.LOG]}
        assert left <= needed, "a log that nobody needs"


def _attempt(row: bytes) -> bytes:
    return row.split(b"#")[1].split()[0]


async def _fail(*_: object) -> str:
    raise ValueError("as it was told")


async def play(house: House, steps: Sequence[Step], slowness: int) -> None:
    world = World(house, slowness)
    left = iter([*steps, ("stop", True, False)])
    step: Step | None = None
    while step is None or step[0] in ("stop", "crash"):
        step = None
        async with world.process():
            for step in left:
                await world.do(step)
                if step[0] in ("stop", "crash"):
                    break
        if step is None:
            break
    async with world.process():
        await world.run_out()
        await world.check()


def model(house: House, words: Any, **options: Any) -> None:
    attempts = count()

    class Told(words):
        """Each attempt at writing a transcript has a number of its own, which its rows tell."""

        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self._attempt = next(attempts)

        def accepted(self) -> Sequence[bytes]:
            self._attempt, own = -1, self._attempt
            rows = super().accepted()
            self._attempt = own
            return rows

        def _row(self, text: str) -> bytes:
            return super()._row(f"#{self._attempt} {text}")

    house.channel(transcriber=Told)

    @settings(
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        **options,
    )
    @given(steps=st.lists(STEPS, min_size=10, max_size=30), slowness=st.integers(0, 3))
    def holds(steps: Sequence[Step], slowness: int) -> None:
        house.renew()
        trio.run(play, house, steps, slowness, clock=trio.testing.MockClock(autojump_threshold=0))

    holds()


def test_whatever_happens(house: House, words: Any):
    model(house, words, max_examples=200)


@pytest.mark.soak
def test_whatever_happens_for_long(house: House, words: Any):
    model(house, words, max_examples=3000)
