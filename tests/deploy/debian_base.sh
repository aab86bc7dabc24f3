#!/usr/bin/env bash
# Puts a stand-in for the gateway's base image into buildah's store, for machines that reach Debian but no
# registry of images: Debian 12 with its Python 3.11, without what Docker's slim images leave out.
# Needs root, buildah and debootstrap.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=docker.io/library/$(sed -n 's/^FROM \([^ ]*\) AS build$/\1/p' docker/gateway.Dockerfile)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,python-is-python3,ca-certificates \
    bookworm "$tree" http://deb.debian.org/debian
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* \
    "$tree"/usr/share/{doc,man,locale,info}/*

export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
container=$(buildah from scratch)
buildah copy --quiet "$container" "$tree" /
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit --quiet "$container" "$name"
buildah rm "$container"
