"""`python -m longrun` is the `longrun` command."""

from longrun.cli import main

main()
