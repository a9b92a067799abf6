"""The entry point of a job that is submitted to a cluster. It does the same as `faceq score`.

ray job submit --working-dir . -- python -m jobs.score --config jobs/score.yaml
"""

import sys

from faceq.cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "score")
    sys.exit(main())
