# Builds TensorRT plans on the machine that will run them; see docker/README.md.
#   docker build -f docker/plan-builder.Dockerfile -t posegate-plan-builder:0.1.0 .
ARG TAG=25.08-py3
FROM nvcr.io/nvidia/tensorrt:${TAG}

COPY docker/plan-builder/build_plans.py /opt/plan-builder/build_plans.py
COPY model_repository /onnx
RUN mkdir --parents /models /cache && chown 10001:10001 /models /cache
USER 10001:10001
WORKDIR /opt/plan-builder
HEALTHCHECK NONE
ENTRYPOINT ["python3", "/opt/plan-builder/build_plans.py"]
CMD ["--onnx", "/onnx", "--cache", "/cache", "--models", "/models"]
