"""Files: how many at once, and how often."""

from __future__ import annotations

from typing import Any

import trio

from afactors_channels import Overloaded
from tests.channels.telegram.fakes import Bot, Context, Server, message


def document(number: int, *, size: int = 10) -> dict[str, Any]:
    """Somebody's file; everybody's is another one."""
    sender = {"id": 100 + number, "first_name": "u", "is_bot": False}
    return message(document={"file_id": f"f{number}", "file_size": size}, sender=sender)


async def test_few_files_are_held_at_once(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    server.stored = {f"f{number}": b"x" for number in range(10)}
    context.slow = {str(100 + number): trio.Event() for number in range(10)}
    await bot.start(polls=True)
    server.post(*[document(number) for number in range(10)])
    await trio.sleep(20)
    assert len(context.offered) == len(server.of("getFile")) == 4
    await bot.quiet()
    server.post(message("no file"))
    await trio.sleep(5)
    assert "no file" in context.said
    await trio.sleep(60)
    for event in context.slow.values():
        event.set()
    await trio.sleep(60)
    assert len(context.runs) == 11
    assert len(server.of("getFile")) == 10


async def test_who_waits_too_long_comes_again(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    server.stored = {f"f{number}": b"x" for number in range(5)}
    context.slow = {str(100 + number): trio.Event() for number in range(4)}
    await bot.start()
    async with trio.open_nursery() as hooks:
        for number in range(4):
            hooks.start_soon(bot.hook, document(number))
        await bot.quiet()
        status, headers = await bot.hook(document(4))
        assert (status, headers["retry-after"]) == (503, "5")
        for event in context.slow.values():
            event.set()
    assert (await bot.hook(document(4)))[0] == 200


async def test_a_file_is_fetched_once_however_often_its_message_is_refused(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    server.stored = {"f1": b"x"}
    await bot.start(polls=True)
    context.refusals += [Overloaded("full", retry_after=1.0)] * 20
    server.post(document(1), document(2))
    await trio.sleep(60)
    assert len(context.offered) == 22
    assert [one["file_id"] for one in server.of("getFile")].count("f1") == 1
    assert len(context.runs) == 2


async def test_what_is_kept_has_a_bound(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    server.stored = {f"f{number}": b"x" * 2000 for number in range(8)}
    await bot.start(max_download=2000)
    updates = [document(number, size=2000) for number in range(8)]
    for _ in range(2):
        context.refusals += [Overloaded("full")] * 8
        for update in updates:
            assert (await bot.hook(update))[0] == 429
    assert len(server.of("getFile")) == 16
    context.refusals += [Overloaded("full")] * 2
    for _ in range(3):
        await bot.hook(updates[7])
    assert len(server.of("getFile")) == 16
