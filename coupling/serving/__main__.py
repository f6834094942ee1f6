"""``python -m coupling.serving SETTINGS``: a supervised server; started by :mod:`coupling.serving.starting`."""

import sys

from coupling.serving.supervisor import main

sys.exit(main(sys.argv[1]))
