"""Classes of the protocol's messages, made from `inference.proto` when they are first needed.

Generated stubs register their names in protobuf's default pool, where those of other packages (tritonclient's) clash
with them, and are bound to one release of protobuf. A pool of our own and the part of the language that the file needs
take less than that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = "GRPCInferenceService"
_FIELD = descriptor_pb2.FieldDescriptorProto


@cache
def classes() -> dict[str, Any]:
    """The message classes by name, such as `ModelInferRequest`."""
    file, _ = _read()
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [message.name for message in file.message_type]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in names}


def methods() -> dict[str, tuple[Any, Any]]:
    """The classes that each method of the service takes and returns."""
    made = classes()
    return {name: (made[taken], made[given]) for name, taken, given in _read()[1]}


@cache
def _read() -> tuple[Any, list[tuple[str, str, str]]]:
    text = Path(__file__).with_name("inference.proto").read_text(encoding="utf-8")
    words = iter(re.findall(r'"[^"]*"|\w+|[^\w\s]', re.sub(r"//.*", "", text)))
    file = descriptor_pb2.FileDescriptorProto(name="lowbit/inference.proto", package=PACKAGE, syntax="proto3")
    calls: list[tuple[str, str, str]] = []
    for word in words:
        if word == "message":
            _message(file.message_type.add(), words)
        elif word == "enum":
            _enum(file.enum_type.add(), words)
        elif word == "rpc":
            name, _, taken, _, _, _, given = (next(words) for _ in range(7))
            calls.append((name, taken, given))
    known = {message.name for message in file.message_type}
    enums = {enum.name for enum in file.enum_type}
    for message in file.message_type:
        _resolve(message, f".{PACKAGE}.{message.name}", known, enums)
    return file, calls


def _enum(enum: Any, words: Iterator[str]) -> None:
    enum.name, _ = next(words), next(words)
    for name in iter(words.__next__, "}"):
        _, number, _ = (next(words) for _ in range(3))
        enum.value.add(name=name, number=int(number))


def _message(message: Any, words: Iterator[str]) -> None:
    message.name, _ = next(words), next(words)
    choice: int | None = None
    for word in words:
        if word == "}" and choice is None:
            return
        if word == "}":
            choice = None
        elif word == "message":
            _message(message.nested_type.add(), words)
        elif word == "oneof":
            choice = len(message.oneof_decl)
            message.oneof_decl.add(name=next(words))
            next(words)
        else:
            _field(message, word, words, choice)


def _field(message: Any, word: str, words: Iterator[str], choice: int | None) -> None:
    repeated = word in ("repeated", "map")
    if word == "map":  # a map is a list of nested messages of a key and a value
        _, key, _, value, _ = (next(words) for _ in range(5))
    kind = next(words) if word == "repeated" else word
    name = next(words)
    _, number, _ = (next(words) for _ in range(3))
    if word == "map":
        kind = "".join(part.capitalize() for part in name.split("_")) + "Entry"
        entry = message.nested_type.add(name=kind)
        entry.options.map_entry = True
        for at, (each, of) in enumerate((("key", key), ("value", value)), 1):
            entry.field.add(name=each, number=at, type_name=of, label=_FIELD.LABEL_OPTIONAL)
    label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
    field = message.field.add(name=name, number=int(number), type_name=kind, label=label)
    if choice is not None:
        field.oneof_index = choice


def _resolve(message: Any, path: str, known: set[str], enums: set[str]) -> None:
    """Makes of each field's word its type: a number of protobuf's, or the full name of a message."""
    nested = {each.name for each in message.nested_type}
    for field in message.field:
        word = field.type_name
        if word in nested or word in known:
            field.type = _FIELD.TYPE_MESSAGE
            field.type_name = f"{path}.{word}" if word in nested else f".{PACKAGE}.{word}"
        elif word in enums:
            field.type, field.type_name = _FIELD.TYPE_ENUM, f".{PACKAGE}.{word}"
        else:
            field.ClearField("type_name")
            field.type = _FIELD.Type.Value(f"TYPE_{word.upper()}")
    for each in message.nested_type:
        _resolve(each, f"{path}.{each.name}", known, enums)
