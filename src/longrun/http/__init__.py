"""Requests in, answers out: the wire contract, and nothing of how runs are executed."""
