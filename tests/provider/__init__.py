"""A model provider for tests: a real HTTP server that speaks the Responses and the Chat Completions
API, does what the last user message says (`script.py`), remembers what it gave (`memory.py`), and
refuses in the next request what real providers refuse (`shapes.py`, `refusals.py`, `messages.py`).

`with running() as provider:` of `server.py` starts one; `python -m tests.provider` does by hand.
"""
