"""Agents that need no key and no network, and the demonstration behind `longrun demo`."""
