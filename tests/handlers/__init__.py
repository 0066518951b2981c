"""Agents of other frameworks, served as handlers; each file is an example by itself."""
