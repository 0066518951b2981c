"""Who is calling, for which principal, and what they may do."""
