#!/usr/bin/env bash
# Installs the system programs that some tests run or compare against (ffmpeg with ffprobe, GNU parallel), and a C
# compiler, which makes a filter quicker. sepctl itself needs none of them, and tests that do are skipped where they are
# missing. Never fails, so that `make test` works on any system.
set -u
missing=()
while read -r program packages; do
    command -v "$program" >/dev/null 2>&1 || missing+=($packages)
done <<< "ffmpeg ffmpeg
ffprobe ffmpeg
parallel parallel
cc gcc libc6-dev"
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "note: no ${missing[*]}: tests that need them are skipped, and without cc sepctl is slower (on Debian: sudo apt-get install ${missing[*]})" >&2
    exit 0
fi
echo "installing ${missing[*]} with apt-get, for the tests that need them" >&2
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install -y -q --no-install-recommends "${missing[@]}")
{ "${install[@]}" || { apt-get update -q && "${install[@]}"; }; } >/dev/null 2>&1 \
    || echo "note: apt-get could not install ${missing[*]}: tests that need them are skipped, and without cc sepctl is slower" >&2
exit 0
