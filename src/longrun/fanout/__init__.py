"""From the log to its readers: one hub per replica, one tail per stream."""
