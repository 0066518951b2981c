"""The configurations, with what is asked for put in."""

import math
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Final

from longrun.settings import Settings

FILES: Final = {
    "docker": "Dockerfile",
    "compose": "compose.yaml",
    "kubernetes": "kubernetes.yaml",
    "systemd": "systemd.service",
    "nginx": "nginx.conf",
    "haproxy": "haproxy.cfg",
}
"""What can be printed, and where it is."""

LEAVE_SECONDS: Final = 5
"""Until everybody knows that a pod takes no new connections."""

END_SECONDS: Final = 15
"""A process ends within ten seconds of its drain (README.md, "Stopping"), and some are spare."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is put in.

    Attributes:
        servers: addresses of replicas, with ports, for proxies.
        folder: where the project and its `.venv` are.
    """

    agents: str = "my_app.agents:researcher"
    image: str = "registry.example/agents:1"
    replicas: int = 3
    servers: tuple[str, ...] = ("127.0.0.1:8001", "127.0.0.1:8002", "127.0.0.1:8003")
    folder: str = "/srv/agents"


def printed(what: str, wanted: Wanted, settings: Settings) -> str:
    """One of `FILES`.

    Args:
        settings: of the replicas; how long stopping takes follows from them.
    """
    text = files("longrun.deploy").joinpath("files", FILES[what]).read_text("utf-8")
    drain = math.ceil(settings.drain_seconds)
    grace = drain + END_SECONDS + (LEAVE_SECONDS if what == "kubernetes" else 0)
    numbered = list(enumerate(wanted.servers, 1))
    return Template(text).substitute(
        agents=wanted.agents,
        image=wanted.image,
        replicas=wanted.replicas,
        most=3 * wanted.replicas,
        busy=math.ceil(0.7 * settings.max_runs),
        drain=drain,
        grace=grace,
        leave=LEAVE_SECONDS,
        folder=wanted.folder,
        nginx_servers="\n".join(f"    server {each} max_fails=0;" for each in wanted.servers),
        haproxy_servers="\n".join(f"    server replica{n} {each}" for n, each in numbered),
    )
