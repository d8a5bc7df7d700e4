"""Responses by their ids: fetched, followed, cancelled, deleted, and what they were given."""

from __future__ import annotations

from ..errors import BadRequest, HostError
from ..outcomes import HostedRun
from .creating import follow
from .exchange import Exchange, response_not_found
from .listing import page_of, parse_page, parse_stream_query
from .render import render_run
from .stored_items import input_items


async def fetch(exchange: Exchange) -> None:
    """`GET /responses/{response_id}`: as it stands, or its events."""
    query = parse_stream_query(exchange.query)
    token = exchange.parameter("response_id")
    run = await visible(exchange, token)
    if query.stream:
        await follow(exchange, run, query.starting_after)
    else:
        await exchange.answer.json(render_run(run, token, include=query.include))


async def cancel(exchange: Exchange) -> None:
    """`POST /responses/{response_id}/cancel`; again, the same answer."""
    token = exchange.parameter("response_id")
    run = await visible(exchange, token)
    if not render_run(run, token)["background"]:
        raise BadRequest(
            "Only a response in the background can be cancelled; close the connection of any other.",
            field="response_id",
            code="not_in_background",
        )
    run = await exchange.context.cancel(token, partition=exchange.caller.partition)
    await exchange.answer.json(render_run(run, token))


async def delete(exchange: Exchange) -> None:
    """`DELETE /responses/{response_id}`: its output, its events, and the point that it was."""
    token = exchange.parameter("response_id")
    await exchange.context.forget(token, partition=exchange.caller.partition)
    await exchange.answer.json({"id": token, "object": "response", "deleted": True})


async def list_input(exchange: Exchange) -> None:
    """`GET /responses/{response_id}/input_items`."""
    page = parse_page(exchange.query)
    token = exchange.parameter("response_id")
    await visible(exchange, token)
    messages = await exchange.context.get_input(token, partition=exchange.caller.partition)
    await exchange.answer.json(page_of(input_items(messages, token, include=page.include), page))


async def count_input(exchange: Exchange) -> None:
    """`POST /responses/input_tokens`: the framework has no way to ask a model for this."""
    await exchange.body()
    raise HostError(
        "This server cannot count tokens: the hosted agent's model is not asked in advance.",
        code="not_implemented",
        status=501,
    )


async def visible(exchange: Exchange, token: str) -> HostedRun:
    """A run that may be fetched.

    Raises:
        NotFound: There is none.
    """
    run = await exchange.context.get_continuation(token, partition=exchange.caller.partition)
    if not run.retrievable:
        raise response_not_found()
    return run
