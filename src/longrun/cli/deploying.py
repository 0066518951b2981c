"""`longrun deploy`: print what runs longrun, or stands in front of it."""

from enum import StrEnum
from typing import Annotated

import typer

from longrun.settings import Settings

app = typer.Typer()


class Target(StrEnum):
    """What can be printed."""

    docker = "docker"
    compose = "compose"
    kubernetes = "kubernetes"
    systemd = "systemd"
    nginx = "nginx"
    haproxy = "haproxy"


@app.command()
def deploy(
    target: Annotated[Target, typer.Argument(help="What to print.")],
    agents: Annotated[
        str, typer.Option(help="Import string of the agents.")
    ] = "my_app.agents:researcher",
    image: Annotated[
        str, typer.Option(help="Image of the replicas, for kubernetes.")
    ] = "registry.example/agents:1",
    replicas: Annotated[int, typer.Option(min=1, help="How many replicas.")] = 3,
    server: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A replica, for nginx and haproxy; may be repeated. "
            "[dim]\\[default: 127.0.0.1:8001, …][/]",
        ),
    ] = None,
    folder: Annotated[
        str, typer.Option(help="Folder of the project and its .venv, for systemd.")
    ] = "/srv/agents",
) -> None:
    """Print a configuration to start from: docker, compose, kubernetes, systemd, nginx or haproxy.

    Probes, grace periods and timeouts follow from the settings in the environment.

    [bold]Example:[/] longrun deploy nginx --server 10.0.0.1:8000 --server 10.0.0.2:8000

    [bold]Example:[/] LONGRUN_DRAIN_SECONDS=120 longrun deploy kubernetes > longrun.yaml
    """
    from longrun.deploy.printing import Wanted, printed

    servers = tuple(server or [f"127.0.0.1:{8001 + n}" for n in range(replicas)])
    wanted = Wanted(agents, image, replicas, servers, folder)
    print(printed(target.value, wanted, Settings.load()), end="")
