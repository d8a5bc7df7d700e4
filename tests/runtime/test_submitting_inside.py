"""What a turn's own code submits goes with its commit: all of it or nothing, to its own key and to others."""

from __future__ import annotations

from typing import Any

import pytest
from trio.abc import Clock

from afactors_channels import HostError


def submits(house: Any, text: str, key: str, tokens: list[str], **more: Any) -> Any:
    async def behaviour(*_: Any) -> None:
        tokens.append(await house.runtime.submit(house.request(text, key=key, **more)))

    return behaviour


@pytest.mark.parametrize("key", ["ada", "bob"])
async def test_a_letter_goes_with_the_commit(autojump_clock: Clock, house: Any, key: str):
    tokens: list[str] = []
    house.target.on["send"] = submits(house, "later", key, tokens)
    async with house.open() as runtime:
        await house.ask("send")
        run = await runtime.get_continuation(tokens[0], wait=True)
        assert run.state == "completed"
        assert run.isolation_key == key
        assert run.result.text == ("send later" if key == "ada" else "later")


@pytest.mark.parametrize("key", ["ada", "bob"])
async def test_a_turn_that_fails_sends_nothing(autojump_clock: Clock, house: Any, key: str):
    tokens: list[str] = []
    submit = submits(house, "later", key, tokens)

    async def submit_and_fail(*_: Any) -> None:
        await submit()
        raise RuntimeError

    house.target.on["send"] = submit_and_fail
    async with house.open():
        with pytest.raises(HostError):
            await house.ask("send")
        assert "later" not in house.target.started
        assert await house.store.work(0.0) == []
        assert [record.state for record in await house.records()] == ["failed"]


@pytest.mark.parametrize("key", ["ada", "bob"])
async def test_it_survives_a_crash_right_after_the_commit(autojump_clock: Clock, house: Any, key: str):
    tokens: list[str] = []
    house.target.on["send"] = submits(house, "later", key, tokens)
    gate = house.target.hold("later")
    async with house.open():
        await house.ask("send")
        house.store.crash()
        gate.set()
    async with house.open() as runtime:
        run = await runtime.get_continuation(tokens[0], wait=True)
        assert run.state == "completed"
    assert house.target.ended.count("later") >= 1


async def test_a_repeat_gets_the_first_ones_token(autojump_clock: Clock, house: Any):
    tokens: list[str] = []
    house.target.on["send"] = submits(house, "later", "bob", tokens, idempotency_key="k")
    async with house.open() as runtime:
        await house.ask("send")
        await runtime.get_continuation(tokens[0], wait=True)
        again = await runtime.submit(house.request("later", key="bob", idempotency_key="k"))
        assert again == tokens[0]
        assert house.target.started.count("later") == 1


@pytest.mark.parametrize("key", ["ada", "bob"])
async def test_what_a_turn_submits_runs_in_its_order(autojump_clock: Clock, house: Any, key: str):
    said = [f"letter {number}" for number in range(6)]

    async def submitting(*_: object) -> None:
        for text in said:
            await house.submit(text, "next", key=key, name=f"p-{text}")

    house.target.on["one"] = submitting
    async with house.open() as runtime:
        assert await house.ask("one", "s") == "one"
        await runtime.get_continuation(f"p-{said[-1]}", wait=True)
        assert house.target.started == ["one", *said]
