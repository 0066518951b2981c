"""`/openapi.json` as a judge: whether an answer is one that the document knows."""

import json
import re
from typing import Any

from jsonschema import Draft202012Validator


class Judge:
    """Checks answers against an OpenAPI document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._validators: dict[str, Draft202012Validator] = {}
        self._paths = [
            (re.compile(re.sub(r"\\{\w+\\}", within, re.escape(path))), path)
            # The name of a model may have slashes.
            for within in ("[^/]+", ".+")
            for path in document["paths"]
        ]

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """What the document says of a request; None: it knows no such one."""
        bare = path.partition("?")[0].removeprefix("/v1") or "/"
        for pattern, name in self._paths:
            if pattern.fullmatch(bare) and method.lower() in self.document["paths"][name]:
                found: dict[str, Any] = self.document["paths"][name][method.lower()]
                return found
        return None

    def problem(
        self, method: str, path: str, status: int, media_type: str, body: str
    ) -> str | None:
        """What is wrong with an answer by the document, in some words; None: nothing."""
        operation = self.operation(method, path)
        if operation is None:
            return None if status in (404, 405) else f"answered though unknown: {method} {path}"
        answer = operation["responses"].get(str(status))
        if answer is None:
            return f"status {status} is not in the document for {method} {path}"
        answer = self._at(answer)
        content = answer.get("content", {})
        if not content:
            return None if not body else f"a body where none is promised: {body[:200]}"
        bare = media_type.partition(";")[0].strip()
        kinds = {kind.partition(";")[0]: said["schema"] for kind, said in content.items()}
        if bare not in kinds:
            return f"media type {media_type!r} is not in the document for {method} {path}"
        if bare == "text/event-stream":
            return self._problem_of_stream(kinds[bare], body)
        if bare == "application/json":
            return self.problem_of(kinds[bare], json.loads(body))
        return None

    def _problem_of_stream(self, schema: dict[str, Any], body: str) -> str | None:
        for line in body.splitlines():
            data = line.removeprefix("data: ")
            if data != line and data != "[DONE]":
                event = json.loads(data)
                problem = self._problem_of_event(schema, event)
                if problem is not None:
                    return f"{event.get('type')}: {problem}"
        return None

    def _problem_of_event(self, schema: dict[str, Any], event: dict[str, Any]) -> str | None:
        """By the one branch that has its type: the error of a union of 59 says nothing."""
        for branch in self._at(schema)["anyOf"]:
            if self._at(branch)["properties"]["type"].get("const") == event.get("type"):
                return self.problem_of(branch, event)
        return "no such type"

    def problem_of(self, schema: dict[str, Any], value: Any) -> str | None:
        """What is wrong with a value by one of the document's schemas."""
        key = json.dumps(schema)
        if key not in self._validators:
            whole = {**schema, "components": self.document["components"]}
            self._validators[key] = Draft202012Validator(whole)
        for error in self._validators[key].iter_errors(value):
            worst = error
            while worst.context:
                worst = max(worst.context, key=lambda each: len(each.absolute_path))
            return f"{worst.json_path}: {worst.message[:300]}"
        return None

    def _at(self, found: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in found:
            value: Any = self.document
            for part in found["$ref"].removeprefix("#/").split("/"):
                value = value[part]
            found = value
        return found
