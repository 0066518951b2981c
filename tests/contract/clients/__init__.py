"""Clients that people use, from PyPI and npm, against replicas: `make clients` installs them."""
