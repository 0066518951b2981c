"""What stands in for the finished steps of earlier attempts, and where the Agents SDK is tapped."""
