"""Conversations by their ids: created, labelled, deleted; their items listed, added, taken out."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from ..errors import NotFound
from ..outcomes import HostedSession, SessionEdit
from ..requests import ChannelRequest, ChannelSession
from .conversations import parse_added, parse_new, parse_update, render_conversation, render_deleted
from .exchange import Exchange
from .fields import conversation_name
from .ids import RANDOM_BYTES, new_conversation_id
from .listing import list_of, page_of, parse_include, parse_page
from .stored_items import history_items, item_place


async def create(exchange: Exchange) -> None:
    """`POST /conversations`."""
    new = parse_new(await exchange.body_if_any())
    name = new_conversation_id(secrets.token_bytes(RANDOM_BYTES))
    edit = SessionEdit(create=True, labels=new.metadata, append=new.messages)
    session = await exchange.context.edit_session(_about(exchange, name), edit)
    await exchange.answer.json(_shown(name, session))


async def fetch(exchange: Exchange) -> None:
    """`GET /conversations/{conversation_id}`."""
    name = _name(exchange)
    await exchange.answer.json(_shown(name, await exchange.context.get_session(_about(exchange, name))))


async def update(exchange: Exchange) -> None:
    """`POST /conversations/{conversation_id}`: other labels."""
    name = _name(exchange)
    edit = SessionEdit(labels=parse_update(await exchange.body()))
    await exchange.answer.json(_shown(name, await exchange.context.edit_session(_about(exchange, name), edit)))


async def delete(exchange: Exchange) -> None:
    """`DELETE /conversations/{conversation_id}`; its responses stay, and can be continued."""
    name = _name(exchange)
    await exchange.context.edit_session(_about(exchange, name), SessionEdit(delete=True))
    await exchange.answer.json(render_deleted(name))


async def list_items(exchange: Exchange) -> None:
    """`GET /conversations/{conversation_id}/items`."""
    page = parse_page(exchange.query)
    await exchange.answer.json(page_of(await _items(exchange, page.include), page))


async def add_items(exchange: Exchange) -> None:
    """`POST /conversations/{conversation_id}/items`; answers with what was added."""
    name = _name(exchange)
    include = parse_include(exchange.query)
    messages = parse_added(await exchange.body())
    session = await exchange.context.edit_session(_about(exchange, name), SessionEdit(append=messages))
    begin = len(session.messages) - len(messages)
    await exchange.answer.json(list_of(history_items(session.messages, include=include, begin=begin)))


async def fetch_item(exchange: Exchange) -> None:
    """`GET /conversations/{conversation_id}/items/{item_id}`."""
    include = parse_include(exchange.query)
    item_id = exchange.parameter("item_id")
    item = next((item for item in await _items(exchange, include) if item["id"] == item_id), None)
    if item is None:
        raise _no_item()
    await exchange.answer.json(item)


async def delete_item(exchange: Exchange) -> None:
    """`DELETE /conversations/{conversation_id}/items/{item_id}`; answers with the conversation."""
    name = _name(exchange)
    about = _about(exchange, name)
    session = await exchange.context.get_session(about)
    place = item_place(session.messages, exchange.parameter("item_id"))
    if place is None:
        raise _no_item()
    await exchange.answer.json(_shown(name, await exchange.context.edit_session(about, SessionEdit(remove=[place]))))


async def _items(exchange: Exchange, include: Sequence[str]) -> list[dict[str, Any]]:
    session = await exchange.context.get_session(_about(exchange, _name(exchange)))
    return history_items(session.messages, include=include)


def _name(exchange: Exchange) -> str:
    return str(conversation_name(exchange.scope["path_params"]["conversation_id"], "conversation_id"))


def _about(exchange: Exchange, name: str) -> ChannelRequest:
    return exchange.about(ChannelSession(session_id=name))


def _shown(name: str, session: HostedSession) -> dict[str, Any]:
    return render_conversation(
        name, created_at=int(session.created), metadata=session.labels, questions=session.questions
    )


def _no_item() -> NotFound:
    return NotFound("There is no item with this id in the conversation.", field="item_id", code="item_not_found")
