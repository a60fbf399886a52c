#!/usr/bin/env bash
# Builds the image longilesion:latest. BASE_IMAGE and IMAGE choose another base and another name; API_METHOD=invoke builds
# one that the platform starts once for many cases, in place of exec, once for each.
set -euo pipefail
cd "$(dirname "$0")"
. test/container/engine.sh

previous=$(engine images --quiet "$IMAGE")
build_image "$IMAGE" ${BASE_IMAGE:+--build-arg "BASE_IMAGE=$BASE_IMAGE"} \
    ${API_METHOD:+--build-arg "API_METHOD=$API_METHOD"}

# The image that just lost its name would stay for ever, with its gigabytes.
if [ -n "$previous" ] && [ "$previous" != "$(engine images --quiet "$IMAGE")" ]; then
    engine rmi "$previous" >/dev/null || true
fi
echo "Built $IMAGE"
