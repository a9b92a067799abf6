# The image for rayjob.yaml:  docker build -t registry.example.com/faceq:0.1.0 .
# It has the version of Ray that the tests use. The CUDA build of ONNX Runtime is installed last, as in cluster.yaml:
# faceq and insightface install the build without CUDA, which conflicts with it.

# RELEASE: pin the base image by its digest (@sha256:…), because a tag can be moved. This command prints it:
#   docker buildx imagetools inspect rayproject/ray:2.60.0-py311-gpu --format '@{{.Manifest.Digest}}'
ARG RAY_DIGEST=""
FROM rayproject/ray:2.60.0-py311-gpu${RAY_DIGEST}
# Ray's own user, by number: Kubernetes cannot verify that a user given by name is not root.
USER 1000
WORKDIR /home/ray/faceq
COPY --chown=1000 pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY --chown=1000 faceq faceq/
COPY --chown=1000 jobs jobs/
RUN pip install --no-cache-dir --constraint constraints.txt --editable .
RUN pip uninstall --yes onnxruntime onnxruntime-gpu
RUN pip install --no-cache-dir --constraint constraints.txt "onnxruntime-gpu[cuda,cudnn]"
# CHANGE for another preset: models pull --preset insightface --accept-licence
RUN python -m faceq models pull
