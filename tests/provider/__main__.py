"""`python -m tests.provider`: a provider to try things by hand, until Ctrl-C."""

import contextlib
import threading

from tests.provider.server import KEY, running

if __name__ == "__main__":
    with running() as provider, contextlib.suppress(KeyboardInterrupt):
        print(f"OPENAI_BASE_URL={provider.url} OPENAI_API_KEY={KEY}", flush=True)
        threading.Event().wait()
