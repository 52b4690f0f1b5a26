"""The Open Inference Protocol's REST part as an OpenAPI document, after the one of kserve/open-inference-protocol.

What is mended: paths have parameters that OpenAPI knows (`{name}`); the ways without a version are there, as the text
of the protocol has them; the statuses of refusals are named: 400, 404 for what is not there, 413 for what is too long.
"""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: str, **properties: Document) -> Document:
    return {"type": "object", "properties": properties, "required": required.split()}


def _list(items: Document) -> Document:
    return {"type": "array", "items": items}


def _json(schema: Document) -> Document:
    return {"content": {"application/json": {"schema": schema}}}


TEXT = {"type": "string"}
SHAPE = _list({"type": "integer"})
PARAMETERS = {"type": "object"}

SCHEMAS = {
    "error": _object("error", error=TEXT),
    "server": _object("name version extensions", name=TEXT, version=TEXT, extensions=_list(TEXT)),
    "tensor": _object("name datatype shape", name=TEXT, datatype=TEXT, shape=SHAPE),
    "model": _object(
        "name platform",
        name=TEXT,
        versions=_list(TEXT),
        platform=TEXT,
        inputs=_list(_ref("tensor")),
        outputs=_list(_ref("tensor")),
    ),
    "data": _list({"anyOf": [_ref("data"), {"type": "number"}, TEXT, {"type": "boolean"}]}),
    "input": _object(
        "name shape datatype data", name=TEXT, shape=SHAPE, datatype=TEXT, parameters=PARAMETERS, data=_ref("data")
    ),
    "wanted": _object("name", name=TEXT, parameters=PARAMETERS),
    "request": _object(
        "inputs", id=TEXT, parameters=PARAMETERS, inputs=_list(_ref("input")), outputs=_list(_ref("wanted"))
    ),
    "response": _object(
        "model_name outputs",
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        parameters=PARAMETERS,
        outputs=_list(_ref("input")),
    ),
}


def _refusals(*statuses: int) -> Document:
    return {str(status): {"description": "refused", **_json(_ref("error"))} for status in statuses}


def _get(answer: Document | None, *refused: int) -> Document:
    given = {"description": "OK", **(_json(answer) if answer else {})}
    return {"get": {"responses": {"200": given, **_refusals(*refused)}}}


def document(name: str, inputs: list[Document]) -> Document:
    """The document of a server that has this model; inputs: an example of a request's."""
    request = {**_json(_ref("request")), "required": True}
    request["content"]["application/json"]["examples"] = {"one": {"value": {"inputs": inputs}}}
    infer = {
        "post": {
            "requestBody": request,
            "responses": {"200": {"description": "OK", **_json(_ref("response"))}, **_refusals(400, 404, 413)},
        }
    }
    paths: Document = {
        "/v2/health/live": _get(None),
        "/v2/health/ready": _get(None, 503),
        "/v2": _get(_ref("server")),
    }
    for version in ("", "/versions/{version}"):
        of = f"/v2/models/{{name}}{version}"
        known = [("name", name), *([("version", "1")] if version else [])]
        parameters = [
            {"in": "path", "name": each, "required": True, "schema": TEXT, "example": example}
            for each, example in known
        ]
        for path, given in {of: _get(_ref("model"), 404), f"{of}/ready": _get(None, 404), f"{of}/infer": infer}.items():
            paths[path] = {**given, "parameters": parameters}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Open Inference Protocol", "version": "2"},
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }
