# The Grand Challenge container: reads /input, writes /output, needs no network, a read-only root and an empty /tmp.
#
# The base brings Python and its own build of torch, which stays as it is: 2.8 to 2.13, but not 2.9, which nnU-Net
# refuses too. CUDA 12.6 runs on every driver since 525, on the platform's T4 (sm_75) and on its A10G (sm_86).
ARG BASE_IMAGE=docker.io/pytorch/pytorch:2.8.0-cuda12.6-cudnn9-runtime
FROM ${BASE_IMAGE}

# Where pip looks while the image is built; they leave no trace in its environment.
ARG PIP_CERT
ARG PIP_FIND_LINKS
ARG PIP_INDEX_URL

COPY requirements.txt /opt/longilesion/

# Just these lines and nothing that they ask for: whatever belongs to the base's torch stays as it is. The tests of NumPy
# and SciPy are 45 MB.
RUN python -c "import torch; print('base image: torch', torch.__version__)" \
        || { echo "The base image has no torch: choose BASE_IMAGE among images of torch 2.8 to 2.13, not 2.9" >&2; exit 1; } \
    && python -m pip list --format=freeze > /opt/longilesion/base-packages.txt \
    && grep -v '^torch==' /opt/longilesion/requirements.txt > /tmp/requirements.txt \
    && PIP_BREAK_SYSTEM_PACKAGES=1 python -m pip install --no-cache-dir --no-deps --requirement /tmp/requirements.txt \
    && find $(python -c "import numpy, scipy; print(*numpy.__path__, *scipy.__path__)") -type d -name tests -prune -exec rm -rf {} + \
    && rm -rf /tmp/* \
    && groupadd --gid 10001 longilesion \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp longilesion

COPY process.py LICENSE /opt/longilesion/
COPY resources /opt/longilesion/resources/
COPY model /opt/longilesion/model/
COPY longilesion /opt/longilesion/longilesion/
# Compiled once, as nothing may be written next to the code later. The build may come from a folder that only its owner
# can read; the user below is somebody else.
RUN python -m compileall -q /opt/longilesion && chmod -R a+rX /opt/longilesion

# How the platform runs the image: exec starts it for each case, invoke once, to serve any number of cases. The program
# reads the variable, so that one image can be run in both ways.
ARG API_METHOD=exec
RUN case "$API_METHOD" in exec|invoke) ;; *) echo "API_METHOD is $API_METHOD; expected exec or invoke" >&2; exit 1 ;; esac

# Lines have to arrive as they are said.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp LONGILESION_API_METHOD=${API_METHOD}

ARG BASE_IMAGE
LABEL org.grand-challenge.api-method=${API_METHOD} org.opencontainers.image.base.name=${BASE_IMAGE}

WORKDIR /opt/longilesion
USER longilesion
ENTRYPOINT ["python", "process.py"]
