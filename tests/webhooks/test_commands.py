"""`longrun webhooks`, beside two replicas."""

import pytest
from openai import AsyncOpenAI
from typer.testing import CliRunner

from longrun import cli
from tests.contract.test_commands import command
from tests.reading import eventually
from tests.servers import Replica
from tests.webhooks.sink import Sink
from tests.webhooks.test_delivery import background
from tests.webhooks.test_endpoints import ALL, path  # noqa: F401


@pytest.mark.parametrize("name", ["list", "show", "endpoints", "redeliver"])
def test_each_has_help_with_an_example(name: str) -> None:
    said = CliRunner().invoke(cli.app, ["webhooks", name, "--help"], env={"COLUMNS": "100"})
    assert f"longrun webhooks {name}" in said.output.split("Example:")[1].splitlines()[0]


async def test_what_was_delivered_is_listed_shown_and_delivered_again(
    both: list[AsyncOpenAI],
    told: list[Replica],
    sink: Sink,
    path: str,  # noqa: F811
) -> None:
    made = await both[0].webhooks.create(name="n", url=f"{sink.url}{path}", event_types=ALL)
    response_id = await background(both[0], input="hello")
    await eventually(lambda: len(sink.of(response_id, path)) == 1)
    environment = {"LONGRUN_SCHEMA": "webhooks", **told[0].environment}

    async def found() -> list[dict[str, object]]:
        said = await command(
            *("webhooks", "list", "--endpoint", made.id, "--state", "delivered", "--json"),
            **environment,
        )
        return list(said.json["deliveries"])

    async def is_noted() -> bool:
        return bool(await found())

    await eventually(is_noted)
    [one] = await found()
    assert (one["response_id"], one["type"]) == (response_id, "response.completed")
    assert (one["attempts"], one["status_code"], one["state"]) == (1, 200, "delivered")
    delivery_id = str(one["id"])
    said = await command("webhooks", "list", "--response", response_id, **environment)
    assert delivery_id in said.out
    assert "settings" in said.out
    said = await command("webhooks", "show", delivery_id, **environment)
    assert response_id in said.out
    said = await command("webhooks", "show", made.id, "--json", **environment)
    assert said.json["event_types"] == ALL
    assert sink.url not in said.out
    said = await command("webhooks", "endpoints", **environment)
    assert made.id in said.out
    said = await command("webhooks", "redeliver", delivery_id, "--json", **environment)
    assert said.json == {"redelivered": 1}
    await eventually(lambda: len(sink.of(response_id, path)) == 2)
    first, second = sink.of(response_id, path)
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == delivery_id


async def test_what_is_not_there_is_said(told: list[Replica]) -> None:
    for arguments, says in (
        (("show", "wh_1"), "no webhook delivery or endpoint 'wh_1'"),
        (("redeliver", "wh_1"), "0 of 1"),
        (("redeliver",), "say either"),
        (("redeliver", "wh_1", "--endpoint", "we_1"), "say either"),
    ):
        said = await command("webhooks", *arguments, **told[0].environment)
        assert said.code == 2
        assert says in said.err
