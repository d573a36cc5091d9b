#!/usr/bin/env bash
# rehearse.sh IMAGE [WORDS]: build IMAGE.Dockerfile with Buildah where no registry and no Docker engine is, then run
# WORDS in it (default: its version), as its user. A minimal Debian stands for the base image, whatever that is: so for
# the server neither Ubuntu nor a GPU is tried. Needs root, debootstrap and buildah, and a mirror of Debian.
# REHEARSAL: a folder for roots and layers, kept for the next time (default: a new one, removed in the end).
set -euo pipefail
cd "$(dirname "$0")/../.."
image=$1; shift
program=$([ "$image" = server ] && echo del-server || echo del-client)
folder=${REHEARSAL:-$(mktemp -d)}
[ -n "${REHEARSAL:-}" ] || trap 'rm -rf --one-file-system "$folder"' EXIT
store=(--root "$folder/layers" --runroot "$folder/run")
base=$(sed -n 's/^ARG BASE=//p' "deploy/docker/$image.Dockerfile")

if [ ! -e "$folder/debian.tar" ]; then
    debootstrap --variant=minbase bookworm "$folder/debian" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >&2
    tar --directory "$folder/debian" --create --file "$folder/debian.tar" .
    rm -rf --one-file-system "$folder/debian"
fi
if ! buildah "${store[@]}" inspect --type image "docker.io/${base/#debian:/library/debian:}" >/dev/null 2>&1; then
    empty=$(buildah "${store[@]}" from scratch)
    buildah "${store[@]}" add --quiet "$empty" "$folder/debian.tar" / >/dev/null
    buildah "${store[@]}" commit --quiet --rm "$empty" "docker.io/${base/#debian:/library/debian:}" >/dev/null
fi
# Where packages come through a proxy with an authority of its own, RUN steps trust it; the image does not.
trusted=()
if [ -n "${SSL_CERT_FILE:-}" ]; then
    printf '[global]\ncert = /run/authorities.pem\n' >"$folder/pip.conf"
    trusted=(--volume "$SSL_CERT_FILE:/run/authorities.pem:ro" --volume "$folder/pip.conf:/etc/pip.conf:ro")
fi
buildah "${store[@]}" build --isolation chroot --pull=never --format docker "${trusted[@]}" \
    --tag "del-$image" --file "deploy/docker/$image.Dockerfile" . >&2
container=$(buildah "${store[@]}" from --pull-never "localhost/del-$image")
trap 'buildah "${store[@]}" rm "$container" >/dev/null; [ -n "${REHEARSAL:-}" ] || rm -rf --one-file-system "$folder"' EXIT
[ $# -gt 0 ] || set -- /opt/del/bin/python -c \
    "import importlib.metadata, os; print('$program', importlib.metadata.version('del-inference'), 'as', os.getuid())"
buildah "${store[@]}" run --isolation chroot "$container" -- "$@"
