"""The log and the metrics of requests: a line each, but for probes, and few series."""

import json
import logging
from typing import Any

import pytest

from longrun import metrics
from longrun.http.middleware import RequestLog
from longrun.loglines import JSONFormatter


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def ask(method: str, path: str, root_path: str = "") -> None:
    async def ignore(_message: Any) -> None:
        pass

    scope = {"type": "http", "method": method, "path": root_path + path, "headers": []}
    await RequestLog(answer)({**scope, "root_path": root_path}, None, ignore)  # type: ignore[arg-type]


async def test_invented_methods_and_paths_make_one_series() -> None:
    def series() -> int:
        (family,) = metrics.requests.collect()
        return len(family.samples)

    before = series()
    for number in range(3000):
        await ask(f"INVENTED{number}", f"/invented/{number}")
    # One of the counter, and when it was made.
    assert series() - before <= 2


async def test_a_request_is_a_line_with_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "longrun.http"):
        await ask("GET", "/v1/responses/resp_1")
    (record,) = caplog.records
    line = json.loads(JSONFormatter().format(record))
    assert line["level"] == "info"
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/responses/resp_1", 404)
    assert line["request_id"].startswith("req_")
    assert line["duration"] >= 0
    assert line["message"].startswith("GET /v1/responses/resp_1 404 ")


@pytest.mark.parametrize("root_path", ["", "/mounted"])
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_probes_are_for_debugging(
    caplog: pytest.LogCaptureFixture, path: str, root_path: str
) -> None:
    with caplog.at_level(logging.DEBUG, "longrun.http"):
        await ask("GET", path, root_path)
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
