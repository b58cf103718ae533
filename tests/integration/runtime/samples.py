"""A request that an endpoint can read, made from what its OpenAPI document says of it."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["Request", "sampled"]

Request = dict[str, Any]
"""What ``httpx.Client.request`` takes: method, url, params, json."""


def sampled(document: dict[str, Any], method: str, path: str, known: dict[str, Any]) -> Request:
    """Make the smallest request.

    :param known: name of a parameter or field -> a value that exists.
    """
    described = document["paths"].get(path, {}).get(method.lower(), {})
    body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    sampler = _Sampler(document, known)
    query = {
        one["name"]: sampler.value(one["schema"], one["name"])
        for one in described.get("parameters", [])
        if one["in"] == "query" and one.get("required")
    }
    url = re.sub(r"{(\w+)(:path)?}", lambda found: str(known.get(found[1], "1")), path)
    request: Request = {"method": method, "url": url, "params": query}
    if body is not None:
        request["json"] = sampler.value(body)
    elif method in {"POST", "PUT", "PATCH"}:
        request["json"] = {}  # the private endpoints of the UI are in no document
    return request


class _Sampler:
    def __init__(self, document: dict[str, Any], known: dict[str, Any]) -> None:
        self._document, self._known = document, known

    def value(self, schema: dict[str, Any], name: str = "") -> Any:
        if "$ref" in schema:
            found: Any = self._document
            for step in schema["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            return self.value(found, name)
        if name in self._known and schema.get("type") != "object":
            return self._known[name]
        for key in ("const", "default"):
            if schema.get(key) is not None:
                return schema[key]
        if "enum" in schema:
            return schema["enum"][0]
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                return self.value(schema[key][0], name)
        return self._of_type(schema, name)

    def _of_type(self, schema: dict[str, Any], name: str) -> Any:
        kind = schema.get("type")
        if kind == "object":
            required = schema.get("required", [])
            return {one: self.value(schema["properties"][one], one) for one in required}
        if kind == "array":
            return [self.value(schema["items"], name)]
        if kind == "string":
            return "2026-01-01T00:00:00Z" if schema.get("format") == "date-time" else "1"
        return {"integer": 1, "number": 1, "boolean": False}.get(kind, "1")
