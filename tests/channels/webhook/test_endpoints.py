"""What is configured, and checked when it is."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from afactors_channels.webhook import WebhookChannel, WebhookEndpoint, WebhookSource

SECRET = "whsec_" + base64.b64encode(b"hidden-hidden-hidden-hidden").decode()
URL = "https://hook.example/in?token=hidden"


def endpoint(**changes: Any) -> WebhookEndpoint:
    return WebhookEndpoint(**{"name": "crm", "url": URL, "secrets": SECRET, **changes})


def source(**changes: Any) -> WebhookSource:
    return WebhookSource(**{"name": "shop", "secrets": SECRET, **changes})


@pytest.mark.parametrize("name", ["a", "crm", "CRM-2", "a.b_c", "x" * 64, "-", "_"])
def test_names(name: str):
    assert (endpoint(name=name).name, source(name=name).name) == (name, name)


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "a b", "é", "x" * 65, "a\n", "a%2Fb", "{source}", None])
def test_names_that_are_no_segments(name: Any):
    for make in (endpoint, source):
        with pytest.raises(ValueError, match="name must match"):
            make(name=name)


@pytest.mark.parametrize(
    "secrets", ["", "whsec_hidden", [], ["whsec_hidden"], [SECRET, "hidden"], [SECRET] * 9, [None]]
)
def test_secrets_that_are_none(secrets: Any):
    for make in (endpoint, source):
        with pytest.raises(ValueError, match=r"^(endpoint 'crm'|source 'shop'): secrets") as caught:
            make(secrets=secrets)
        assert "hidden" not in str(caught.value)


def test_one_secret_or_several():
    other = "whsec_" + base64.b64encode(b"o" * 32).decode()
    assert endpoint().keys == (b"hidden-hidden-hidden-hidden",)
    assert source(secrets=[other, SECRET]).keys == (b"o" * 32, b"hidden-hidden-hidden-hidden")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"url": "http://hook.example/"}, "https"),
        ({"url": "ftp://hook.example/", "allow_http": True}, "https"),
        ({"url": "hook.example"}, "https"),
        ({"url": ""}, "https"),
        ({"url": "https:///path"}, "host"),
        ({"url": "https://user:hidden@hook.example/"}, "user information"),
        ({"url": "https://hidden@hook.example/"}, "user information"),
        ({"url": "https://hook.example/#part"}, "fragment"),
        ({"url": "https://hook.example:99999/"}, "port"),
        ({"url": "https://hook.example:0/"}, "port"),
        ({"url": "https://hook.example:x/"}, "no URL"),
        ({"url": "https://hook.example/\r\nhost: x"}, "no URL"),
        ({"url": "https://127.0.0.1/"}, "not public"),
        ({"url": "https://[::1]/"}, "not public"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "not public"),
        ({"url": "https://169.254.169.254/"}, "not public"),
        ({"url": "http://127.0.0.1/", "allow_http": True}, "not public"),
        ({"url": "http://127.0.0.1/", "allow_private": True}, "https"),
        ({"url": None}, "no URL"),
        ({"events": "afactors.reply"}, "afactors.echo, afactors.message, afactors.reply"),
        ({"events": ["afactors.other"]}, "afactors.echo, afactors.message, afactors.reply"),
        ({"headers": {"Content-Type": "x"}}, "not yours"),
        ({"headers": {"webhook-ID": "x"}}, "not yours"),
        ({"headers": {"Host": "x"}}, "not yours"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "not yours"),
        ({"headers": {"a b": "x"}}, "not a header"),
        ({"headers": {"a": "hidden\r\nb: c"}}, "not a header"),
        ({"headers": {"a": "hidden\n"}}, "not a header"),
        ({"headers": {"a": "hiddené"}}, "not a header"),
        ({"headers": {"a": ""}}, "not a header"),
    ],
)
def test_endpoints_that_cannot_be(changes: dict[str, Any], why: str):
    with pytest.raises(ValueError, match=why) as caught:
        endpoint(**changes)
    assert str(caught.value).startswith("endpoint 'crm': ")
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_endpoints_that_can():
    endpoint(url="http://10.0.0.1:8080/", allow_http=True, allow_private=True)
    endpoint(url="https://bücher.example/")
    endpoint(url="https://8.8.8.8/")
    endpoint(headers={"Authorization": "Bearer hidden"})
    assert endpoint().takes("afactors.echo")
    assert not endpoint(events={"afactors.reply"}).takes("afactors.echo")


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"isolation_key": ""}, "isolation_key"), ({"isolation_key": 5}, "isolation_key")]
    + [({"conversation": path}, "conversation") for path in ("", ".", "a..b", "a.")],
)
def test_sources_that_cannot_be(changes: dict[str, Any], why: str):
    with pytest.raises(ValueError, match=f"source 'shop': {why}"):
        source(**changes)


def test_nothing_hidden_is_shown():
    one, other = endpoint(headers={"Authorization": "hidden"}), source(reply_to="crm")
    channel = WebhookChannel([one], [other])
    for thing in (one, other, channel):
        for text in (repr(thing), str(thing)):
            assert "hidden" not in text
            assert SECRET not in text
    assert repr(channel) == "WebhookChannel(endpoints=['crm'], sources=['shop'], name='webhook')"


@pytest.mark.parametrize("path", ["", "/", "webhooks", "/webhooks/", "//", "/a b", "/{a}", "/a?b"])
def test_paths_that_are_none(path: str):
    with pytest.raises(ValueError, match=r"^path"):
        WebhookChannel(path=path)


def test_channels_that_cannot_be():
    with pytest.raises(ValueError, match="endpoints: two are called 'crm'"):
        WebhookChannel([endpoint(), endpoint()])
    with pytest.raises(ValueError, match="sources: two are called 'shop'"):
        WebhookChannel(sources=[source(), source()])
    with pytest.raises(ValueError, match="reply_to is the name of no endpoint: 'nobody'"):
        WebhookChannel([endpoint()], [source(reply_to="nobody")])


def test_what_the_channel_adds_to_the_host():
    def hook(*_: Any, **__: Any) -> Any: ...

    channel = WebhookChannel([endpoint()], [source()], name="mine", path="/a/b", run_hook=hook, overlap="reject")
    contribution = channel.contribute(None)  # type: ignore[arg-type]
    assert [(route.method, route.path) for route in contribution.routes] == [("POST", "/a/b/{source}")]
    assert (channel.name, contribution.run_hook, contribution.overlap) == ("mine", hook, "reject")
    assert contribution.replies_by_push
    assert None not in (contribution.push, contribution.push_ready, contribution.task)
    assert channel.disabled == frozenset()
    channel.enable("crm")
    assert WebhookChannel([endpoint()]).contribute(None).routes == []  # type: ignore[arg-type]
