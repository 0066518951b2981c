"""Items with the SDK's placeholder for an id: a model of the user's own that gives them gets them
back."""

import pytest

from longrun.history.faces import PLACEHOLDER_ID, Origin
from longrun.history.targets import Known, for_target

OWN = Origin("other", "app.models.Mine")


@pytest.mark.parametrize("kind", ["computer_call", "local_shell_call", "shell_call"])
def test_a_model_without_ids_gets_back_what_it_gave_in_this_run(kind: str) -> None:
    call = {"type": kind, "id": PLACEHOLDER_ID, "call_id": "call_1", "action": {}}
    items = [call, {"type": f"{kind}_output", "call_id": "call_1", "output": []}]
    assert for_target([Known(item) for item in items], OWN) == items
