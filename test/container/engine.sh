# Sourced by the container scripts: sets ENGINE and defines `engine` and `build_image`.
#
# docker is used where its engine answers. Elsewhere podman and buildah are, with settings that need neither systemd nor
# overlay mounts nor user namespaces, so that they also work for root inside a virtual machine or another container.

IMAGE=${IMAGE:-longilesion:latest}

if docker info >/dev/null 2>&1; then
    ENGINE=docker
elif command -v podman >/dev/null && command -v buildah >/dev/null && command -v runc >/dev/null; then
    ENGINE=podman
    export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}
    case $IMAGE in */*) ;; *) IMAGE=localhost/$IMAGE ;; esac
else
    echo "No container engine: start docker, or apt-get install podman buildah runc" >&2
    exit 1
fi

engine() {
    if [ "$ENGINE" = docker ]; then
        docker "$@"
    else
        podman --runtime runc --cgroup-manager=cgroupfs "$@"
    fi
}

# build_image TAG [option...]: builds the image of the working directory's Dockerfile.
build_image() {
    local tag=$1
    shift
    if [ "$ENGINE" = docker ]; then
        docker build --platform linux/amd64 --tag "$tag" "$@" .
        return
    fi
    # pip in the build has to see what this machine's pip is told to use: a certificate bundle, a folder of wheels.
    local name
    for name in PIP_CERT PIP_FIND_LINKS PIP_INDEX_URL; do
        [ -n "${!name:-}" ] || continue
        set -- "$@" --build-arg "$name=${!name}"
        if [ -e "${!name}" ]; then set -- "$@" --volume "${!name}:${!name}:ro"; fi
    done
    # One layer for all steps, and nothing left of a failed build: vfs stores every layer in full.
    buildah bud --layers=false --no-cache --force-rm --isolation chroot --network host --platform linux/amd64 --tag "$tag" "$@" .
}
