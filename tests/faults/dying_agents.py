"""Agents that end their process when they are imported, as code that crashes does."""

import os

os._exit(7)
