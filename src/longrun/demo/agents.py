"""The agents that are served when none are named: `demo`, `demo-fast`, and `assistant`.

longrun serve longrun.demo.agents:agents
"""

import asyncio
import os
from typing import Any

from agents import Agent, Tool, function_tool

from longrun.demo.model import Call, Say, ScriptedModel, Seen
from longrun.demo.prose import GLOSSARY, compose, length_of, word_in
from longrun.execution.summaries import DEFAULT_PROMPT


def agents() -> list[Agent[Any]]:
    """The demonstration agents; each one's name is the `model` that clients name.

    `assistant` is there only with `OPENAI_API_KEY` in the environment. Its model is
    `OPENAI_MODEL`, or else the Agents SDK's default.
    """
    served = [_scripted("demo", pauses=True), _scripted("demo-fast", pauses=False)]
    if os.environ.get("OPENAI_API_KEY"):
        served.append(
            Agent(
                name="assistant",
                instructions="You are a helpful assistant. Be brief and precise.",
                model=os.environ.get("OPENAI_MODEL") or None,
            )
        )
    return served


def _scripted(name: str, *, pauses: bool) -> Agent[Any]:
    return Agent(
        name=name,
        instructions="Follow the script.",
        model=ScriptedModel(name, script, pauses=pauses),
        tools=_tools(pauses=pauses),
    )


def script(seen: Seen) -> list[Say | Call]:
    """Two calls at the same time, then one that needs their results, then the answer; or a summary
    of the context, where that is asked for."""
    if seen.question == DEFAULT_PROMPT:
        asked = "; ".join(f'"{each}"' for each in seen.earlier) or "nothing"
        return [Say(f"So far the user has asked for {asked}, and it was done.", 0.5)]
    word = word_in(seen.question)
    if not {"look_up", "count_words"} <= seen.results.keys():
        return [Call("look_up", {"word": word}), Call("count_words", {"text": seen.question})]
    if "check_sources" not in seen.results:
        return [Call("check_sources", {"word": word, "meaning": seen.results["look_up"]})]
    length = length_of(seen.question)
    findings = [
        "Two of my tools ran at the same time. One looked up a word: in longrun, "
        f'"{word}" is {seen.results["look_up"]}.',
        f"The other counted the words of your message: {seen.results['count_words']}.",
        f"A third tool checked the first: {seen.results['check_sources']}.",
    ]
    return [Say(compose(length, findings), length.seconds)]


def _tools(*, pauses: bool) -> list[Tool]:
    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds if pauses else 0)

    @function_tool
    async def look_up(word: str) -> str:
        """Look up what a word means in longrun.

        Args:
            word: the word.
        """
        await work(0.9)
        return GLOSSARY.get(word, "nothing that is written down")

    @function_tool
    async def count_words(text: str) -> str:
        """Count the words of a text.

        Args:
            text: the text.
        """
        await work(0.4)
        return str(len(text.split()))

    @function_tool
    async def check_sources(word: str, meaning: str) -> str:
        """Check a meaning against the glossary.

        Args:
            word: the word.
            meaning: what it is said to mean.
        """
        await work(0.6)
        verdict = "agrees" if GLOSSARY.get(word) == meaning else "does not agree"
        return f"the glossary of {len(GLOSSARY)} words {verdict}"

    return [look_up, count_words, check_sources]
