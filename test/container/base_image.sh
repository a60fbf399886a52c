#!/usr/bin/env bash
# Makes the base image for a machine that has no docker engine: Debian, Python and the CPU build of torch, which is all
# that the Dockerfile asks of its base. Prints the image's name; everything else goes to stderr.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=$(for tool in podman buildah runc debootstrap; do command -v "$tool" >/dev/null || echo "$tool"; done)
if [ -n "$packages" ]; then
    [ "$(id -u)" = 0 ] || { echo "Missing: $packages. As root: apt-get install" $packages >&2; exit 1; }
    { apt-get update && apt-get install --yes --no-install-recommends $packages; } >&2
fi
. test/container/engine.sh

torch=$(grep '^torch==' requirements.txt)
recipe=$(cat "$0" <(echo "$torch") | sha256sum | cut -c1-12)
name=localhost/longilesion-base:$recipe
if ! engine image exists "$name"; then
    root=$(mktemp -d)
    trap 'rm -rf --one-file-system "$root"' EXIT
    inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@"; }
    {
        debootstrap --variant=minbase --include=python3,python3-venv bookworm "$root"
        # Fetched out here and installed in there: the new system knows neither the machine's index nor its certificates.
        "${PYTHON:-.venv/bin/python}" -m pip download --quiet --dest "$root/wheels" "$torch"
        inside python3 -m venv /opt/venv
        inside /opt/venv/bin/pip install --quiet --no-index --find-links /wheels "$torch"
        rm -rf "$root/wheels" "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/dev/*
        # vfs keeps every image in full: one made by an older recipe goes first.
        engine images --quiet --filter reference=localhost/longilesion-base | xargs -r podman rmi --force
        tar -C "$root" -c . | engine import --change 'ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$name"
    } >&2
fi
echo "$name"
