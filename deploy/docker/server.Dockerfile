# del-server on NVIDIA GPUs: docker build -f deploy/docker/server.Dockerfile -t del-server:0.1.0 .
# CUDA's libraries come with PyTorch's wheels, pinned in server.lock; the base brings the settings that the container
# toolkit reads. Its CUDA release is the one that those wheels are built for.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${BASE} AS build
SHELL ["/bin/sh", "-euc"]
# hadolint ignore=DL3008
RUN apt-get update; \
    apt-get install --yes --no-install-recommends python3 python3-venv; \
    rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY deploy/docker/build.lock deploy/docker/server.lock ./
RUN python3 -m venv /opt/del; \
    /opt/del/bin/pip install --require-hashes -r server.lock; \
    python3 -m venv /opt/build; \
    /opt/build/bin/pip install --require-hashes -r build.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist .; \
    /opt/del/bin/pip install --no-deps dist/*.whl; \
    /opt/del/bin/pip check; \
    /opt/del/bin/pip uninstall --yes pip

FROM ${BASE}
SHELL ["/bin/sh", "-euc"]
# hadolint ignore=DL3008
RUN apt-get update; \
    apt-get install --yes --no-install-recommends ca-certificates python3; \
    rm -rf /var/lib/apt/lists/*; \
    groupadd --gid 10001 del; \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/cache/del --shell /usr/sbin/nologin del; \
    install -d -o del -g del -m 0750 /var/cache/del
COPY --from=build /opt/del /opt/del
COPY deploy/docker/health.py /opt/del/health.py
# Everything that is written is a cache; the root file system can be read-only.
ENV PATH=/opt/del/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DEL_CACHE=/var/cache/del \
    HF_HOME=/var/cache/del/huggingface \
    MALLOC_ARENA_MAX=2 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /var/cache/del
VOLUME /var/cache/del
EXPOSE 50051 9090
STOPSIGNAL SIGTERM
# A start loads a model, which may take minutes; after it, three misses in a row.
HEALTHCHECK --start-period=10m --interval=15s --timeout=5s --retries=3 \
    CMD ["/opt/del/bin/python", "/opt/del/health.py"]
ENTRYPOINT ["del-server"]
CMD ["serve", "--host", "0.0.0.0", "--metrics-port", "9090"]
