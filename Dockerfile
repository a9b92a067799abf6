# faceq on Ray, for rayjob.yaml:  docker build -t registry.example.com/faceq:0.1.0 .
# Its Ray is the one that the tests run with. In the order of cluster.yaml's setup: ONNX Runtime's build for
# CUDA comes last, since faceq and insightface bring the one without, which would be in the way.
FROM rayproject/ray:2.60.0-py311-gpu
COPY --chown=ray . /home/ray/faceq
WORKDIR /home/ray/faceq
RUN pip install --no-cache-dir --constraint constraints.txt --editable .
RUN pip uninstall --yes onnxruntime onnxruntime-gpu && pip install --no-cache-dir "onnxruntime-gpu[cuda,cudnn]"
# CHANGE for another preset: models pull --preset insightface --accept-licence
RUN python -m faceq.cli models pull
