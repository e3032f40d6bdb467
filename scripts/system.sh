#!/usr/bin/env bash
# Installs the system programs that some tests compare against (ffmpeg, ffprobe). sepctl itself needs none of them:
# without them those tests are skipped. Never fails, so that `make test` works on any system.
set -u
missing=()
for program in ffmpeg ffprobe; do
    command -v "$program" >/dev/null 2>&1 || missing+=("$program")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "note: no ${missing[*]}: the tests that compare with them are skipped (on Debian: sudo apt-get install ffmpeg)" >&2
    exit 0
fi
echo "installing ffmpeg with apt-get, for the tests that compare with it" >&2
export DEBIAN_FRONTEND=noninteractive
{ apt-get install -y -q --no-install-recommends ffmpeg || { apt-get update -q && apt-get install -y -q --no-install-recommends ffmpeg; }; } >/dev/null 2>&1 \
    || echo "note: apt-get could not install ffmpeg: the tests that compare with it are skipped" >&2
exit 0
