#!/usr/bin/env bash
# Builds the image longilesion:latest. BASE_IMAGE and IMAGE choose another base and another name.
set -euo pipefail
cd "$(dirname "$0")"
. test/container/engine.sh

build_image "$IMAGE" ${BASE_IMAGE:+--build-arg "BASE_IMAGE=$BASE_IMAGE"}
if [ "$ENGINE" = podman ]; then engine image prune --force >/dev/null; fi # the image that lost its name to this one
echo "Built $IMAGE"
