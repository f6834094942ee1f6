"""``python -m coupling`` is the command ``twoscale``, where that is not installed."""

from coupling.command_line import main

main()
