#!/usr/bin/env bash
# Writes what is uploaded to Grand Challenge into dist/: the image's archive, and the weights as a model tarball, which
# the platform unpacks to /opt/ml/model. `./export.sh MODEL` packs another bundle than model/.
set -euo pipefail
cd "$(dirname "$0")"
. test/container/engine.sh
model=${1:-model}

mkdir -p dist
engine save "$IMAGE" | gzip >dist/longilesion-image.tar.gz
# Laid out as training.export does: files at the top, the same bytes whoever packs them and when. The detector of
# --find-new and the model of --types lie in folders of their own.
tar -C "$model" --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=a+rX,u+w,go-w --format=ustar \
    -c MODEL_CARD.md $(cd "$model" && ls -d detector/* diagnosis/* fold_*.safetensors 2>/dev/null) settings.json | gzip -n >dist/longilesion-model.tar.gz
ls -lh dist/longilesion-image.tar.gz dist/longilesion-model.tar.gz
