"""Approvals: agents that ask for them, and those who answer."""
