"""The `longrun` command: a file for each group of commands."""

from longrun.cli.command import app, main

__all__ = ["app", "main"]
