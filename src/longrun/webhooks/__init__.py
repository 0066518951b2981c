"""Webhooks: what is posted, signed how, to where, and again until it is taken."""
