"""What a client has to bring for a response to be continued."""

from longrun.http.steers_pending import required_input


def test_results_of_calls_and_answers_to_approvals() -> None:
    output = [
        {"type": "message", "id": "msg_1"},
        {"type": "function_call", "call_id": "call_1", "name": "mine", "arguments": "{}"},
        {"type": "mcp_call", "id": "mcp_1", "name": "theirs"},
        {"type": "mcp_approval_request", "id": "mcpr_1", "name": "pay", "arguments": "{}"},
    ]
    assert required_input(output) == [
        {"type": "function_call_output", "call_id": "call_1", "name": "mine"},
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1"},
    ]


def test_a_call_whose_output_is_shown_is_the_servers() -> None:
    """As `LONGRUN_SERVER_TOOLS=function_call` shows it."""
    output = [
        {"type": "function_call", "call_id": "call_1", "name": "theirs", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "done"},
    ]
    assert required_input(output) == []
