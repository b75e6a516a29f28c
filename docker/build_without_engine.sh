#!/usr/bin/env bash
# Build an image without a Docker engine and without a registry, and train in it: for CI, and for machines that have neither.
# Needs root on Debian or Ubuntu with buildah and debootstrap (apt-get install buildah debootstrap).
#
#   docker/build_without_engine.sh build                     base image with debootstrap, then docker/Dockerfile.cpu
#   docker/build_without_engine.sh train [key.path=value ..] the job of `make train` through the image's entry point
#   docker/build_without_engine.sh run COMMAND ...           any command in the image, as its user
#
# What can be set:
#   WORK=...        images, containers and the run's output (default: a folder under TMPDIR)
#   DOCKERFILE=...  (default: docker/Dockerfile.cpu)        TARGET=...      build only up to this stage
#   BASE_IMAGE=...  an image that is there already, instead of making one with debootstrap
#   MIRROR=...      Debian mirror (default: apt's own)      SUITE=...       Debian release (default: bookworm)
#   WHEELS=...      folder of wheels that pip looks at too, such as a CPU build of torch; it is not in the image
#   CERTIFICATES=.. folder of certificate authorities for pip, where a proxy has its own; not in the image
#   OMP_NUM_THREADS passed on to what runs in the image
#   BUILD_ARGS=...  further arguments of `buildah build`
set -euo pipefail
cd "$(dirname "$0")/.."

WORK=${WORK:-${TMPDIR:-/tmp}/hnet-image}
DOCKERFILE=${DOCKERFILE:-docker/Dockerfile.cpu}
TAG=${TAG:-localhost/hnet:${DOCKERFILE##*.}}
SUITE=${SUITE:-bookworm}
MIRROR=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)}
# Each process in a chroot of its own, without namespaces that a container or a CI worker may not make.
export BUILDAH_ISOLATION=chroot

buildah_() { command buildah --root "$WORK/storage" --runroot "$WORK/running" --storage-driver "${DRIVER:-overlay}" "$@"; }

make_base() {
    BASE_IMAGE=localhost/debian-python:$SUITE
    if buildah_ inspect --type image "$BASE_IMAGE" >/dev/null 2>&1; then
        return
    fi
    [[ -e $WORK/base/bin ]] ||
        debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$SUITE" "$WORK/base" "$MIRROR"
    chroot "$WORK/base" apt-get clean
    local container
    container=$(buildah_ from scratch)
    buildah_ add --quiet "$container" "$WORK/base" / >/dev/null
    buildah_ config --cmd /bin/bash "$container"
    buildah_ commit --quiet --rm "$container" "$BASE_IMAGE" >/dev/null
}

build() {
    mkdir -p "$WORK"
    [[ -n ${BASE_IMAGE:-} ]] || make_base
    # The docker format, since the OCI format has no HEALTHCHECK.
    local arguments=(--format docker --layers --build-arg "BASE_IMAGE=$BASE_IMAGE" --tag "$TAG" --file "$DOCKERFILE")
    arguments+=(--build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
    if [[ -n ${WHEELS:-} ]]; then
        arguments+=(--volume "$WHEELS:/wheels:ro" --build-arg "TORCH_SOURCE=--find-links /wheels")
    fi
    [[ -z ${CERTIFICATES:-} ]] || arguments+=(--volume "$CERTIFICATES:/etc/ssl/certs:ro")
    [[ -z ${TARGET:-} ]] || arguments+=(--target "$TARGET")
    # shellcheck disable=SC2086  # several words on purpose
    buildah_ build "${arguments[@]}" ${BUILD_ARGS:-} .
    buildah_ images
}

run() {
    local container status=0
    container=$(buildah_ from "$TAG")
    mkdir -p "$WORK/workspace"
    chown 10001:0 "$WORK/workspace"
    local options=(--volume "$WORK/workspace:/workspace")
    [[ -z ${OMP_NUM_THREADS:-} ]] || options+=(--env "OMP_NUM_THREADS=$OMP_NUM_THREADS")
    # An engine would write a name of the container's own into its /etc/hosts; ranks must find the name.
    buildah_ run --hostname localhost "${options[@]}" "$container" -- "$@" || status=$?
    buildah_ rm "$container" >/dev/null
    return $status
}

train() {
    # `buildah run` starts no entry point by itself.
    local inspected
    inspected=$(buildah_ inspect --type image --format '{{range .Docker.Config.Entrypoint}}{{println .}}{{end}}' "$TAG")
    mapfile -t entry_point <<<"$inspected"
    run "${entry_point[@]}" train quickstart "$@"
    run env HNET_OUTPUT_DIR=runs/quickstart hnet-healthcheck
}

case ${1:-} in
    build | train | run) "$@" ;;
    *)
        sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
        exit 2
        ;;
esac
