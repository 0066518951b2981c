"""What the demonstration agents say: how long, in numbered parts, and nothing invented."""

import re
from dataclasses import dataclass
from itertools import count

from longrun.demo.model import TOKENS_PER_SECOND, tokens

LONGEST = 3600.0


@dataclass(frozen=True, slots=True)
class Length:
    """How long an answer is, in words for the reader and in seconds of text."""

    name: str
    seconds: float


LENGTHS = {
    "short": Length("the short answer", 3.0),
    "medium": Length("the medium answer", 12.0),
    "long": Length("the long answer", 30.0),
}

_EXACT = re.compile(r"\b(\d+(?:\.\d+)?)\s*(s|secs?|seconds?|m|mins?|minutes?)\b", re.IGNORECASE)
_NAMED = re.compile(r"\b(short|medium|long)\b", re.IGNORECASE)

GLOSSARY = {
    "event log": "the table of all events, and the only truth about a stream",
    "event": "one streaming event, a JSON object with a sequence number",
    "response": "the API resource that a client creates, polls, streams, cancels and deletes",
    "run": "the producing of one response, on one replica",
    "attempt": "the n-th run of the same response; it grows by one at every takeover",
    "step": "one finished model turn or tool call, kept so that it is never done twice",
    "cursor": "the sequence number of the last event that a reader has",
    "announcement": "a hint that a response has new events; it carries no data",
    "replica": "one server process; any number of them share one Postgres",
    "lease": "the right of a replica, for a limited time, to execute its runs",
}
"""The words of longrun, for the demonstration's tools to look up."""

_PARTS = (
    "Every event of this answer is written to Postgres before anyone sees it. What has reached "
    "you is therefore committed, and no crash can take it back: a reader who comes later gets "
    "exactly what you got.",
    "The events of a response are numbered 0, 1, 2 and so on, with no gap and no repeat. The last "
    "number that you have is your cursor, and it is all that you need to remember.",
    "When a connection breaks, ask for the same response with starting_after set to your cursor. "
    "The stream goes on with the next number, as if nothing had happened in between.",
    "It does not matter which replica you ask. Each of them serves any response from Postgres "
    "alone; there are no sticky sessions, and nothing to route.",
    "A platform may cut every connection after two minutes. An agent may think for ten. The run "
    "does not live in the connection, so the one does not end the other.",
    "Behind the stream there is one table. Whoever likes psql can read this very answer there, a "
    "row for each event, while it is still being written.",
    "New events are announced with NOTIFY, but an announcement is only a hint. If each one of "
    "them were lost, readers would look for themselves every few seconds and miss nothing.",
    "While one commit is on its way to the disk, the next events gather for the one after it. "
    "An idle server waits for nothing, and a busy one writes many events in each commit.",
    "A reader is a cursor over the log and has no queue of its own. A slow reader slows nobody, "
    "and its backlog takes no memory: it stays in Postgres until it is asked for.",
    "If the replica that runs an agent dies, another one takes the response over. It executes "
    "the run again from its input, with recorded results in the place of finished steps.",
    "A finished model turn is not paid for twice, and a finished tool call is not made twice. "
    "Only what was under way at the moment of the crash is done again.",
    "A replica that was thought dead may wake up and want to go on writing. It cannot: every "
    "append checks, in the same statement, who holds the current attempt.",
    "The last event of a log is its only terminal one. It is committed together with the status "
    "and the final snapshot, so that a poll and a stream never disagree.",
    "Closing the connection does not stop a background run. To stop it, cancel it; cancelling one "
    "that has finished already changes nothing and is no error.",
    "During silence the server sends a comment line every fifteen seconds, so that proxies on "
    "the way keep the connection open. Clients ignore it, and no number is used up.",
    "A finished response can be replayed from the start for as long as it is kept, also one "
    "that was never streamed. The replay is the log itself, not a retelling.",
    "A browser's EventSource can read the same stream. It remembers the last id that it got and "
    "sends it when it reconnects; the server takes it for the cursor.",
    "The tools of this agent left items in the response as well. Their calls and results have "
    "places in the output, before this text, and events in the log.",
    "Ids sort by time: each holds a timestamp in its first digits. A list of responses in the "
    "order of their ids is a list in the order of their creation.",
    "Two readers of one response on one replica share its newest events in memory. The hundredth "
    "reader of a popular answer costs hardly more than the first.",
    "Leases and deadlines go by the clock of Postgres. Replicas may disagree about the time of "
    "day, but they all ask the same clock who is late.",
    "Whoever asks for a response that belongs to someone else gets the same answer as for one "
    "that does not exist. Nothing can be learned by guessing ids.",
    "A request that is sent twice with the same idempotency key makes one response. A client "
    "that is not sure whether its first attempt arrived can simply send it again.",
    "A stopping server first lets its runs and requests finish. What does not finish in time is "
    "carried on by another replica, and readers reconnect there.",
    "Events are encoded as JSON once, when they are written. From then on they are bytes: no "
    "replica parses them again to send them, and a replay is byte for byte the same.",
    "For a poll the server reads the finished items and not the whole log. Asking every second "
    "how an hour-long run is doing stays cheap to the end.",
    "An agent takes several model turns for one answer, but a client sees one response: one "
    "beginning, one end, and output positions that only grow.",
    "This agent keeps no memory of its own. Which turn it is in, it reads from its input, which "
    "is why another replica could finish this sentence.",
    "Try it: close the connection now, wait a little, and resume. The numbers of the parts will "
    "go on without a gap, and so will the numbers of the events.",
)

_AGAIN = (
    "Once more, because it is easy to forget:",
    "From the reader's side again:",
    "To repeat it in a calm moment:",
    "Worth a second look:",
    "As was said before:",
    "Back to an earlier thought:",
    "Seen from further away:",
)


def length_of(question: str) -> Length:
    """What a question asks for: `short`, `long`, `for 130 seconds`; if nothing, medium."""
    exact = _EXACT.search(question)
    if exact:
        seconds = float(exact[1]) * (60 if exact[2].lower().startswith("m") else 1)
        seconds = max(1.0, min(seconds, LONGEST))
        return Length(f"an answer of {seconds:g} seconds", seconds)
    named = _NAMED.findall(question)
    return LENGTHS[named[-1].lower() if named else "medium"]


def word_in(question: str) -> str:
    """The word of the glossary that a question is about; the event log if about none."""
    found = (word for word in GLOSSARY if re.search(rf"\b{word}s?\b", question, re.IGNORECASE))
    return next(found, "event log")


def compose(length: Length, findings: list[str]) -> str:
    """An answer of about the length, at the pace of a reader, in numbered parts.

    Args:
        length: for how long to talk.
        findings: what the tools found, told in the first parts.
    """
    opening = (
        f'This is {length.name}, about {length.seconds:g} seconds of text; "short", "long" or '
        '"for 130 seconds" chooses another. I am a scripted demonstration agent, with no model '
        "behind me."
    )
    wanted = length.seconds * TOKENS_PER_SECOND
    bodies = list(findings)
    size = len(tokens(opening)) + 20 + sum(len(tokens(body)) + 4 for body in bodies)
    for number in count():
        body = _body(number)
        added = len(tokens(body)) + 4
        # The nearest to what is wanted: the pace makes up for the rest.
        if size + added / 2 > wanted:
            break
        bodies.append(body)
        size += added
    return _numbered(opening, bodies)


def _body(number: int) -> str:
    turn, at = divmod(number, len(_PARTS))
    text = _PARTS[at]
    # The seventh lead and the twenty-ninth part meet again only after 203 parts.
    return f"{_AGAIN[number % len(_AGAIN)]} {text[0].lower()}{text[1:]}" if turn else text


def _numbered(opening: str, bodies: list[str]) -> str:
    total = len(bodies)
    paragraphs = [opening]
    words = len(opening.split())
    for number, body in enumerate(bodies, 1):
        paragraph = f"Part {number} of {total}. {body}"
        if number % 5 == 0:
            words_here = words + len(paragraph.split())
            paragraph += f" (Checkpoint: {words_here} words up to here.)"
        paragraphs.append(paragraph)
        words += len(paragraph.split())
    paragraphs.append(
        f"That was part {total} of {total}: if you saw each of them once, nothing is missing."
    )
    return "\n\n".join(paragraphs)
