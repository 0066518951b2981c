"""Handlers: agents of any framework, as async generators; and the steps that they take."""
