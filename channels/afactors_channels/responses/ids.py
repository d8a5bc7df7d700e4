"""Names of responses, conversations and items."""

from __future__ import annotations

RANDOM_BYTES = 24
"""How many random bytes a new id is made of: 192 bits; nobody guesses another's response."""


def new_response_id(random_bytes: bytes) -> str:
    """A response id: ``resp_`` and 48 hexadecimal digits.

    Args:
        random_bytes: Exactly `RANDOM_BYTES` bytes, from a cryptographic source.

    Raises:
        ValueError: Too few or too many bytes.
    """
    return _drawn("resp", random_bytes)


def new_conversation_id(random_bytes: bytes) -> str:
    """A conversation id: ``conv_`` and 48 hexadecimal digits. Arguments and errors as of `new_response_id`."""
    return _drawn("conv", random_bytes)


def _drawn(prefix: str, random_bytes: bytes) -> str:
    if len(random_bytes) != RANDOM_BYTES:
        raise ValueError(f"an id needs exactly {RANDOM_BYTES} random bytes, not {len(random_bytes)}")
    return f"{prefix}_{random_bytes.hex()}"


def input_item_id(prefix: str, response_id: str, index: int) -> str:
    """The id of the item at one place of a response's input, if the client gave it none.

    No item of the output has it: what follows the response's digits is no digit there.
    """
    return f"{prefix}_{response_id.removeprefix('resp_')}in{index:04x}"


def item_id(prefix: str, response_id: str, index: int) -> str:
    """The id of the item at one output index of a response.

    It is derived, not drawn, so that a response that is rendered again later has the ids that its stream had.

    Args:
        prefix: The item's kind: ``msg``, ``fc``, ``rs`` or ``ig``.
        response_id: The response's id.
        index: The item's place in the output.
    """
    return f"{prefix}_{response_id.removeprefix('resp_')}{index:04x}"
