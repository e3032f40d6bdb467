#!/usr/bin/env bash
# Installs the system programs that some tests run or compare against (ffmpeg with ffprobe, GNU parallel). sepctl itself
# needs none of them: without them those tests are skipped. Never fails, so that `make test` works on any system.
set -u
missing=()
for program in ffmpeg ffprobe parallel; do
    command -v "$program" >/dev/null 2>&1 || missing+=("${program/ffprobe/ffmpeg}")    # the name of its package
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "note: no ${missing[*]}: the tests that need them are skipped (on Debian: sudo apt-get install ${missing[*]})" >&2
    exit 0
fi
echo "installing ${missing[*]} with apt-get, for the tests that need them" >&2
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install -y -q --no-install-recommends "${missing[@]}")
{ "${install[@]}" || { apt-get update -q && "${install[@]}"; }; } >/dev/null 2>&1 \
    || echo "note: apt-get could not install ${missing[*]}: the tests that need them are skipped" >&2
exit 0
