"""For clients of a longrun server: follow a response to its end, whatever happens to connections.

Needs nothing of the server: only `openai`.
"""

from longrun.client.course import GaveUp
from longrun.client.following import create_and_follow, follow
from longrun.client.transcript import Transcript

__all__ = ["GaveUp", "Transcript", "create_and_follow", "follow"]
