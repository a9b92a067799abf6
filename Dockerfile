# faceq on Ray, for rayjob.yaml:  docker build -t registry.example.com/faceq:0.1.0 .
# Its Ray is the one that the tests run with. In the order of cluster.yaml's setup: ONNX Runtime's build for
# CUDA comes last, since faceq and insightface bring the one without, which would be in the way.

# RELEASE: the base image by its digest, so that a tag which somebody moves changes nothing: @sha256:… as given by
#   docker buildx imagetools inspect rayproject/ray:2.60.0-py311-gpu --format '@{{.Manifest.Digest}}'
ARG RAY_DIGEST=""
FROM rayproject/ray:2.60.0-py311-gpu${RAY_DIGEST}
# Ray's own user, by its number: Kubernetes can only then see that it is not root.
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
