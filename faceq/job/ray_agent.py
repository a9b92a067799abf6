"""Script that a local Ray runs as its dashboard agent: it waits until Ray's server process, the raylet, ends.

A raylet ends if its agent ends. Ray's own agent serves a dashboard and metrics, which a local Ray does not
have. A raylet accepts work only after this agent has imported everything that it needs for them, which takes
a second of CPU time.
"""

import os
import time

if __name__ == "__main__":
    raylet = int(os.environ["RAY_RAYLET_PID"])
    while os.getppid() == raylet:
        time.sleep(1)
