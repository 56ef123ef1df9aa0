"""`python -m moongate.cli`, for when the script is not on the path."""

import sys

from moongate.cli import main

sys.exit(main())
