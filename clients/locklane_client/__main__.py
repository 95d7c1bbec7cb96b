"""``python -m locklane_client`` is the ``locklane`` command."""

from locklane_client.cli import main

main(prog_name="locklane")
