"""A process that was to end does end, whatever holds it."""

import subprocess
import sys

STUCK = """
import asyncio, logging, time
from longrun.serving import stubborn

logging.basicConfig()

async def stuck():
    await asyncio.sleep(0)
    time.sleep(60)

loop = asyncio.new_event_loop()
stubborn.exit_after(0.3, loop, [lambda: print("done first", flush=True)])
loop.run_until_complete(stuck())
"""


def test_the_last_resort_ends_even_a_blocked_loop() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=40, check=False
    )
    assert ended.returncode == 1
    assert ended.stdout == "done first\n"
    assert "stopping took too long: exiting without stuck (<string>:" in ended.stderr
