"""A real nginx in front of replicas, with a configuration as users have it."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests import servers
from tests.servers import Replica, free_port

NGINX: Final = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


@contextlib.contextmanager
def running(http: str) -> Iterator[str]:
    """The URL of an nginx, until the end of the block; skips the test where there is none.

    Args:
        http: what is in its http block; it listens on port 80, once.
    """
    if NGINX is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    assert http.count("listen 80;") == 1
    http = http.replace("listen 80;", f"listen 127.0.0.1:{port};")
    folder = Path(tempfile.mkdtemp(prefix="longrun-nginx-"))
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}{http}\n}}\n"
    )
    process = subprocess.Popen([NGINX, "-c", str(configuration), "-e", str(folder / "log")])
    try:
        servers.wait_ready(Replica(f"http://127.0.0.1:{port}", process, folder / "log"))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)
