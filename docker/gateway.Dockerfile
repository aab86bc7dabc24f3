# The gateway, for linux/amd64 and linux/arm64:
#   docker build -f docker/gateway.Dockerfile -t posegate:0.1.0 .
FROM python:3.11.13-slim-bookworm AS build

ARG EXTRAS=triton

# hadolint ignore=DL3008 # strip works the same in every version
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
RUN python -m venv /opt/posegate
COPY pyproject.toml README.md LICENSE ./
COPY service/posegate service/posegate
COPY service/posenets service/posenets
COPY model_repository model_repository
RUN /opt/posegate/bin/pip install --no-cache-dir --no-compile ".[${EXTRAS}]" \
    && /opt/posegate/bin/pip uninstall --yes pip setuptools
# 120 MB that nobody needs: ONNX Runtime as a library for other languages, OpenCV's face cascades,
# tests, networks that only Triton runs, and the symbols of uvloop, ml_dtypes, lapx and rapidjson. The
# libraries that wheels patched stay whole.
WORKDIR /opt/posegate/lib/python3.11/site-packages
RUN rm -rf onnxruntime/capi/libonnxruntime.so* onnxruntime/transformers cv2/data/*.xml \
    posegate/model_repository/*-decoded \
    && find . -name tests -type d -prune -exec rm -rf {} + \
    && find uvloop ml_dtypes lap rapidjson*.so -name '*.so' -exec strip --strip-unneeded {} +

FROM python:3.11.13-slim-bookworm

ENV PATH=/opt/posegate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    POSEGATE_HOST=0.0.0.0
COPY --from=build /opt/posegate /opt/posegate
USER 10001:10001
WORKDIR /opt/posegate
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
ENTRYPOINT ["python", "-m", "posegate"]
CMD ["serve"]
