"""What a client on openai-python makes of a plain answer that takes long, as JSON:
`python waiting.py BASE_URL INPUT`."""

import json
import sys

from openai import OpenAI

base_url, asked = sys.argv[1:3]
# Retries as by default: one would be another run.
with OpenAI(base_url=base_url, api_key="none") as client:
    made = client.responses.create(model="scripted", input=asked)
print(json.dumps({"id": made.id, "status": made.status, "output_text": made.output_text}))
