"""The scoring job as it is submitted to a cluster; the same as `faceq score`.

ray job submit --working-dir . -- python -m jobs.score --config jobs/score.yaml
"""

import sys

from faceq.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
