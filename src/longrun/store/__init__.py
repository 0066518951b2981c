"""Postgres: the only place that imports asyncpg, and the only one that knows SQL."""
