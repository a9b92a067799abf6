"""`python -m faceq`: the command line."""

import sys

from faceq.cli.main import main

sys.exit(main())
