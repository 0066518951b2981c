"""The agents of the recipes, for another replica."""

from agents import Agent

from tests.scripted import echo, scripted

researcher = Agent(name="researcher", model=scripted(), tools=[echo])
