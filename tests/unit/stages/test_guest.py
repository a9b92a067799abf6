"""faceq as a library does not change the settings of the process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import csv, faulthandler, gc, json, locale, logging, os, random, resource, signal, socket, sys
import threading, warnings
import cv2, numpy as np, pyarrow as pa, torch
from PIL import Image, ImageFile

torch.set_num_threads(3)
cv2.setNumThreads(3)
np.seterr(divide="ignore")
os.umask(0o027)
warnings.simplefilter("error", ResourceWarning)
torch.backends.cuda.matmul.allow_tf32 = True

def settings():
    umask = os.umask(0)
    os.umask(umask)
    root, own = logging.getLogger(), logging.getLogger("faceq")
    cudnn = torch.backends.cudnn
    return {
        "environment": dict(os.environ), "umask": umask, "folder": os.getcwd(), "path": list(sys.path),
        "warnings": list(warnings.filters),
        "signals": {each: signal.getsignal(each) for each in signal.valid_signals()},
        "logging": (root.level, root.handlers[:], root.filters[:], own.level, own.handlers[:], own.propagate,
                    logging.lastResort, logging.raiseExceptions, root.manager.disable),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "numpy": (np.geterr(), repr(np.get_printoptions())),
        "opencv": (cv2.getNumThreads(), cv2.utils.logging.getLogLevel(), cv2.useOptimized()),
        "torch": (torch.get_num_threads(), torch.get_num_interop_threads(), cudnn.allow_tf32, cudnn.enabled,
                  torch.backends.cuda.matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic,
                  torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_float32_matmul_precision()),
        "random": (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()),
        "limits": [resource.getrlimit(each) for each in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
        "arrow": (pa.cpu_count(), pa.io_thread_count()),
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "gc": (gc.get_threshold(), gc.isenabled()), "locale": locale.setlocale(locale.LC_ALL),
        "others": (faulthandler.is_enabled(), socket.getdefaulttimeout(), csv.field_size_limit(),
                   sys.getrecursionlimit()),
    }

changed = {}
before = settings()

def look(step):
    now = settings()
    for name, value in now.items():
        if value != before[name]:
            changed[f"{step}: {name}"] = repr((before[name], value))[:2000]

import faceq
look("import")
picture, table = sys.argv[1:]
small = {"serfiq": {"mini_batch": 1}, "dbcnn": {"mini_batch": 1}}
faceq.score_images([picture], fiq_threshold=0, **small)
look("score_images")
scorer = faceq.Scorer(**small)
look("Scorer")
threads = [threading.Thread(target=scorer.score, args=([picture, b"none"],)) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
look("Scorer.score in threads")
assert len(faceq.read_table(table))
look("read_table")
try:
    faceq.Scorer(preset="no such")
except faceq.FaceqError:
    look("an error")
print(json.dumps(changed))
"""


@pytest.fixture(scope="module")
def changed(looked_at: str, photos: Path) -> dict[str, str]:
    """The settings that faceq changes in a program, by the step that changed them."""
    command = [sys.executable, "-c", PROGRAM, str(photos / "t1.jpg"), looked_at]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_using_faceq_changes_no_setting_of_the_process(changed):
    assert changed == {}
