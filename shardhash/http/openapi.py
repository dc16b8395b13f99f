"""The OpenAPI document of a server's HTTP interface, made from its routes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shardhash import __version__
from shardhash.http.routes import Json, Route

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string", "description": "what was wrong, and what to do"}},
    "required": ["error"],
}


def describe(routes: Iterable[Route]) -> Json:
    """The document, OpenAPI 3.1."""
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "shardhash",
            "version": __version__,
            "description": "What the page of a hash equivalence server shows. Builds speak the protocol instead.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {
                "user": {"type": "http", "scheme": "basic", "description": "a user and its token"},
                "page": {"type": "apiKey", "in": "cookie", "name": "shardhash", "description": "a login on the page"},
            },
        },
        "security": [{}, {"user": []}, {"page": []}],
    }


def _operation(route: Route) -> Json:
    # A document of ours, a page or an event stream has no schema worth the name.
    content = {route.content: {"schema": {} if route.content != "application/json" else {"type": ["object", "array"]}}}
    rights = f" Needs {route.needs}." if route.needs else ""
    operation: Json = {
        "summary": route.summary,
        "description": route.answers + rights,
        "operationId": route.method.lower() + route.path.replace("/", "-").replace(".", "-"),
        "responses": {
            "200": {"description": route.answers, "content": content},
            "400": _failure("what was asked is not understood"),
            "401": _failure("the user or token is wrong"),
            "403": _failure("the viewer may not ask this, or the Host is not this server's"),
            "503": _failure("the server, or a part of it, cannot answer now"),
        },
    }
    if route.query:
        operation["parameters"] = [
            {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in route.query.items()
        ]
    if route.method == "POST":
        schema: Json = {"type": "object", "properties": dict(route.body)}
        if route.one_of:
            schema["anyOf"] = [{"required": [name]} for name in route.one_of]
        elif route.body:
            schema["required"] = list(route.body)
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _failure(text: str) -> Json:
    return {
        "description": text,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/Error"}},
            "text/plain": {"schema": {"type": "string"}},
        },
    }
