# Triton with the networks of this project. On a Jetson TAG comes from service/posegate/platforms.toml:
#   docker build -f docker/triton.Dockerfile -t posegate-triton:0.1.0 .
#   docker build -f docker/triton.Dockerfile --build-arg TAG=25.08-py3-igpu \
#       -t posegate-triton:0.1.0-jetpack-6 .
ARG TAG=25.08-py3
FROM nvcr.io/nvidia/tritonserver:${TAG}

ENV ORT_DISABLE_TELEMETRY=1
COPY --chown=10001:10001 model_repository /models
USER 10001:10001
WORKDIR /models
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["curl", "--fail", "--silent", "--max-time", "2", "http://127.0.0.1:8000/v2/health/ready"]
# One broken network must neither end the server nor make it unready for the others; gateways ask
# for the readiness of each network.
CMD ["tritonserver", "--model-repository=/models", "--exit-on-error=false", \
    "--strict-readiness=false", "--log-verbose=0"]
