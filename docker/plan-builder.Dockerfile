# Builds TensorRT plans on the machine that will run them; see docker/README.md.
#   docker build -f docker/plan-builder.Dockerfile -t posegate-plan-builder:0.1.0 .
#   docker build -f docker/plan-builder.Dockerfile --build-arg TAG=25.08-py3-igpu \
#       -t posegate-plan-builder:0.1.0-jetpack-6 .
ARG TAG=25.08-py3
FROM nvcr.io/nvidia/tensorrt:${TAG}

WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY service/posegate service/posegate
COPY service/posenets service/posenets
COPY model_repository model_repository
# hadolint ignore=DL3013 # what is installed is this project itself
RUN python3 -m pip install --no-cache-dir --no-compile '.[triton]' \
    && mv model_repository /onnx \
    && mkdir --parents /models /cache && chown 10001:10001 /models /cache
USER 10001:10001
WORKDIR /tmp
HEALTHCHECK NONE
ENTRYPOINT ["python3", "-m", "posegate", "models", "build", "--from", "/onnx", \
    "--model-repository", "/models", "--cache", "/cache"]
CMD ["--target", "desktop"]
