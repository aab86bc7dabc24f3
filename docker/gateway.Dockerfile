# The gateway, for linux/amd64 and linux/arm64:
#   docker build -f docker/gateway.Dockerfile -t posegate:0.1.0 .
FROM python:3.11.13-slim-bookworm AS build

WORKDIR /source
RUN python -m venv /opt/posegate
COPY pyproject.toml README.md LICENSE ./
COPY service/posegate service/posegate
COPY service/posenets service/posenets
COPY model_repository model_repository
RUN /opt/posegate/bin/pip install --no-cache-dir --no-compile '.[triton]' \
    && /opt/posegate/bin/pip uninstall --yes pip setuptools \
    && find /opt/posegate -name tests -type d -prune -exec rm -rf {} +

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
