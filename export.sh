#!/usr/bin/env bash
# Writes what is uploaded to Grand Challenge into dist/: the image's archive, and the weights as a model tarball, which
# the platform unpacks to /opt/ml/model.
set -euo pipefail
cd "$(dirname "$0")"
. test/container/engine.sh

mkdir -p dist
engine save "$IMAGE" | gzip >dist/longilesion-image.tar.gz
tar -C model --owner=0 --group=0 --mode=a+rX --sort=name -czf dist/longilesion-model.tar.gz .
ls -lh dist/longilesion-image.tar.gz dist/longilesion-model.tar.gz
