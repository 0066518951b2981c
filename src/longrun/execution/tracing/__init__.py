"""OpenTelemetry: one trace for each response, over all its attempts and replicas.

Its root is the response, from its creation to its end; below it are its attempts, each on its
replica; below these what the Agents SDK tells of agents, models, tools, handoffs and guardrails.
No text of inputs, outputs, arguments or errors is in any of it.
"""
