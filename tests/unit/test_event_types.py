"""openai's events are built when a replica is made, not when its first run needs them."""

import json
import subprocess
import sys
from typing import get_args

from openai.types.responses import ResponseStreamEvent

_ASKED = """
import json
from openai.types.responses import Response, ResponseStreamEvent
from longrun.app import create_app
from longrun.execution.event_types import _members
from longrun.settings import Settings

events = [Response, *_members(ResponseStreamEvent)]
before = [each.__name__ for each in events if not each.__pydantic_complete__]
create_app("longrun.demo.agents:agents", Settings())
after = [each.__name__ for each in events if not each.__pydantic_complete__]
print(json.dumps([len(events), before, after]))
"""


def test_a_replica_that_is_made_has_all_of_them() -> None:
    asked = subprocess.run(
        [sys.executable, "-c", _ASKED], capture_output=True, text=True, timeout=60, check=True
    )
    count, before, after = json.loads(asked.stdout)
    assert count == 1 + len(get_args(get_args(ResponseStreamEvent)[0]))
    assert "ResponseOutputItemDoneEvent" in before
    assert after == []
