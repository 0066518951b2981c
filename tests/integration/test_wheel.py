"""The wheel carries all that a server needs: built, installed in a fresh environment, served."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import REPOSITORY, Replica, free_port, wait_ready

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="longrun-wheel-"))
    # The embedded Postgres may run as another user, who has to get at what is installed here.
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    """The wheel of a copy of this checkout, in which a secret lies beside the SQL."""
    source = folder / "source"
    ignore = shutil.ignore_patterns(".git", ".venv", ".longrun", "__pycache__", ".*_cache", "dist")
    shutil.copytree(REPOSITORY, source, ignore=ignore)
    (source / "sql" / ".env").write_text("SECRET=1")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_carries_sql_and_console_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for file in (*REPOSITORY.glob("sql/*/*.sql"), *REPOSITORY.glob("src/longrun/console/*.*")):
        place = file.relative_to(REPOSITORY).as_posix().removeprefix("src/longrun/")
        assert f"longrun/{place}" in names
    assert "longrun/py.typed" in names
    assert not [name for name in names if ".env" in name or "test" in name]
    assert not [name for name in names if name.endswith(".md")]
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"longrun"}


def test_it_serves_from_a_fresh_environment(wheel: Path, folder: Path) -> None:
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[embedded]"], check=True)
    log = folder / "serve.log"
    url = f"http://127.0.0.1:{free_port()}"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LONGRUN_", "PYTHON"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [environment / "bin" / "longrun", "serve", "--port", url.rsplit(":", 1)[1]],
            cwd=folder,
            env=inherited,
            stdout=output,
            stderr=output,
        )
    replica = Replica(url, process, log)
    try:
        wait_ready(replica)
        answer = subprocess.run(
            [
                python,
                "-c",
                "import openai, sys;"
                "client = openai.OpenAI(base_url=sys.argv[1], api_key='none');"
                "print(client.responses.create(model='demo-fast', input='a short one').status)",
                replica.base_url,
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        assert answer.stdout.strip() == "completed"
        replica.signal(signal.SIGTERM)
        assert replica.wait() == 0
    finally:
        replica.end()
