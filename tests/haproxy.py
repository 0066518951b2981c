"""A real HAProxy in front of replicas, with the configuration that `longrun deploy` prints."""

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

HAPROXY: Final = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


@contextlib.contextmanager
def running(configuration: str) -> Iterator[str]:
    """The URL of an HAProxy, until the end of the block; skips the test where there is none.

    Args:
        configuration: all of it; it binds port 80, once.
    """
    if HAPROXY is None:
        pytest.skip("HAProxy is not installed")
    port = free_port()
    assert configuration.count("bind *:80\n") == 1
    configuration = configuration.replace("bind *:80\n", f"bind 127.0.0.1:{port}\n")
    folder = Path(tempfile.mkdtemp(prefix="longrun-haproxy-"))
    file, log = folder / "haproxy.cfg", folder / "log"
    file.write_text(configuration)
    with log.open("wb") as said:
        process = subprocess.Popen([HAPROXY, "-db", "-f", str(file)], stdout=said, stderr=said)
    try:
        servers.wait_ready(Replica(f"http://127.0.0.1:{port}", process, log))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)
