"""How JSON schemas (2020-12) are spelt.

A request may have members beyond those that its schema names, and null counts as not given wherever it may leave a
member out (`asked`). What is answered has exactly the members that its schema names (`told`), unless a client said it
once, and more with it (`repeated`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from .fields import MAX_INTEGER, MAX_TEXT

Schema: TypeAlias = dict[str, Any]
Schemas: TypeAlias = Mapping[str, Schema]

BOOLEAN: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}


def ref(name: str) -> Schema:
    """One of the document's own schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def string(most: int = MAX_TEXT, least: int = 0, **more: Any) -> Schema:
    """Text of so many characters."""
    return {"type": "string", **({"minLength": least} if least else {}), "maxLength": most, **more}


def integer(low: int, high: int = MAX_INTEGER) -> Schema:
    """An integer within a range."""
    return {"type": "integer", "minimum": low, "maximum": high}


def number(low: float, high: float) -> Schema:
    """A number within a range."""
    return {"type": "number", "minimum": low, "maximum": high}


def word(*words: str) -> Schema:
    """One of a few words."""
    return {"type": "string", "const": words[0]} if len(words) == 1 else {"type": "string", "enum": [*words]}


def array(items: Schema, **more: Any) -> Schema:
    """An array of such items."""
    return {"type": "array", "items": items, **more}


def any_of(*schemas: Schema) -> Schema:
    """Any of these."""
    return {"anyOf": [*schemas]}


def or_null(schema: Schema) -> Schema:
    """This, or null."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    if isinstance(schema.get("type"), str) and not {"enum", "const"} & schema.keys():
        return {**schema, "type": [schema["type"], "null"]}
    return any_of(schema, {"type": "null"})


def asked(required: Schemas, optional: Schemas | None = None) -> Schema:
    """An object of a request."""
    known = {**required, **{name: or_null(schema) for name, schema in (optional or {}).items()}}
    return {"type": "object", "properties": known, **({"required": [*required]} if required else {})}


def told(members: Schemas, optional: Sequence[str] = ()) -> Schema:
    """An object of an answer."""
    required = [name for name in members if name not in optional]
    return {"type": "object", "properties": {**members}, "required": required, "additionalProperties": False}


def repeated(members: Schemas) -> Schema:
    """An object of an answer that also has whatever a client put into it."""
    return {"type": "object", "properties": {**members}, "required": [*members]}


def asked_kind(kind: str, required: Schemas, optional: Schemas | None = None) -> Schema:
    """An object of a request that says by its `type` what it is."""
    return asked({"type": word(kind), **required}, optional)


def told_kind(kind: str, members: Schemas, optional: Sequence[str] = ()) -> Schema:
    """An object of an answer that says by its `type` what it is."""
    return told({"type": word(kind), **members}, optional)
