#!/bin/sh
# Makes a stand-in for the base image from Debian's own packages, for machines that reach a Debian mirror but no
# registry: the same Debian, the same Python (3.11), and, as in the official slim images, no manual pages, no
# locales, no compiler and a standard library without compiled files.
#
#   stand_in.sh TAG [podman's own flags…]        DEBIAN_MIRROR names another mirror
set -eu
tag=$1
shift
root=$(mktemp -d)
# It becomes the image's `/`, which users other than root enter too; mktemp makes it for one user alone.
chmod 0755 "$root"
trap 'rm -rf "$root" "$root.log"' EXIT

debootstrap --variant=minbase --include=ca-certificates,netbase,tzdata,python3-venv \
    bookworm "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$root.log" 2>&1 || { cat "$root.log" >&2; exit 1; }
rm -rf "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* \
    "$root"/var/log/* "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/usr/share/info/*
find "$root"/usr/lib/python3* -name __pycache__ -prune -exec rm -rf {} +
tar -C "$root" -c . | podman "$@" import --change 'CMD ["python3"]' - "$tag" >/dev/null
