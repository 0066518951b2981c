"""The model of an agent of the Agents SDK within a handler."""

import os

from agents import OpenAIResponsesModel
from openai import AsyncOpenAI

model = OpenAIResponsesModel(
    "any",
    AsyncOpenAI(base_url=os.environ["PROVIDER_URL"], api_key="sk-provider", max_retries=0),
)
