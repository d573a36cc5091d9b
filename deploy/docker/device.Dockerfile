# del-client on a device or beside an app: docker build -f deploy/docker/device.Dockerfile -t del-device:0.1.0 .
# Runs the gateway, OpenAI's HTTP interface, for apps of this machine. No torch and no model. What it keeps is the ledger in /var/lib/del (docs/ledger.md): on a volume, or limits begin anew.
ARG BASE=debian:12.14-slim

FROM ${BASE} AS build
SHELL ["/bin/sh", "-euc"]
# hadolint ignore=DL3008
RUN apt-get update; \
    apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv; \
    rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY deploy/docker/build.lock deploy/docker/device.lock ./
RUN python3 -m venv /opt/del; \
    /opt/del/bin/pip install --require-hashes -r device.lock; \
    python3 -m venv /opt/build; \
    /opt/build/bin/pip install --require-hashes -r build.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist .; \
    /opt/del/bin/pip install --no-deps dist/*.whl; \
    /opt/del/bin/pip check; \
    /opt/del/bin/pip uninstall --yes pip setuptools

FROM ${BASE}
SHELL ["/bin/sh", "-euc"]
# hadolint ignore=DL3008
RUN apt-get update; \
    apt-get install --yes --no-install-recommends ca-certificates python3; \
    rm -rf /var/lib/apt/lists/*; \
    groupadd --gid 10001 del; \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/del --shell /usr/sbin/nologin del; \
    install -d -o del -g del -m 0700 /var/lib/del /var/cache/del
COPY --from=build /opt/del /opt/del
ENV PATH=/opt/del/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DEL_CACHE=/var/cache/del \
    DEL_LEDGER=/var/lib/del/ledger.sqlite3
USER 10001:10001
WORKDIR /var/lib/del
VOLUME ["/var/lib/del", "/var/cache/del"]
EXPOSE 8085
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=30s --interval=15s --timeout=5s --retries=3 \
    CMD ["/opt/del/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8085/health', timeout=4)"]
ENTRYPOINT ["del-client"]
CMD ["gateway"]
