"""Run the command line: `python -m faceq`."""

import sys

from faceq.cli.main import main

sys.exit(main())
