"""The process that serves the application: Hypercorn, sockets, signals, the order of stopping."""
