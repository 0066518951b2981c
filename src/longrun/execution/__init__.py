"""From agents to events: the only place that drives the Agents SDK."""
