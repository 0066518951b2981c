"""What a client on openai-python, 2 or 3, makes of a stored response, as JSON:
`takeover.py BASE_URL RESPONSE_ID`."""

import json
import sys

import openai

TERMINAL = ("response.completed", "response.failed", "response.incomplete")


class Shown:
    """What a client shows: `output` of every event that has a response replaces it."""

    def __init__(self):
        self.texts = {}

    def take(self, event):
        if hasattr(event, "response"):
            self.texts = {place: text_of(item) for place, item in enumerate(event.response.output)}
        elif event.type == "response.output_text.delta":
            self.texts[event.output_index] = self.texts.get(event.output_index, "") + event.delta

    @property
    def text(self):
        return "".join(self.texts[place] for place in sorted(self.texts))


def text_of(item):
    return "".join(part.text for part in item.content) if item.type == "message" else ""


def by_rule(client, response_id, events, cursor):
    """Of a client whose connection broke after an event: before and after the terminal one."""
    shown = Shown()
    for event in events[: cursor + 1]:
        shown.take(event)
    before = shown.text
    rest = client.responses.retrieve(response_id, stream=True, starting_after=cursor)
    for event in rest:
        before = shown.text
        shown.take(event)
    return [before, shown.text]


def accumulated(client, response_id):
    """What the SDK itself adds up."""
    with client.responses.stream(response_id=response_id) as stream:
        for _ in stream:
            pass
        return stream.get_final_response().output_text


def main():
    base_url, response_id = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0)
    events = list(client.responses.retrieve(response_id, stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    said = {
        "stored": client.responses.retrieve(response_id).output_text,
        "accumulated": accumulated(client, response_id),
        "by_rule": [
            by_rule(client, response_id, events, cursor) for cursor in range(len(events) - 1)
        ],
        "deltas_alone": "".join(deltas),
    }
    print(json.dumps(said))


main()
