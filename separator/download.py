"""One file over HTTP: resumed where it broke, kept only if its SHA-256 is the expected one.

Proxies come from the environment (`https_proxy`, `http_proxy`, `no_proxy`), as urllib reads them.
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from separator import __version__
from separator.atomic import write_error
from separator.errors import ModelError
from separator.modelfile import file_sha256

Progress = Callable[[str, int, "int | None"], None]     # file name, bytes so far, bytes in all if known
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)         # HTTP status codes that may pass
BLOCK = 1 << 18                                         # bytes, at most, per read
HINT = ("check the network and the proxy settings (https_proxy); or fetch the files elsewhere and run: "
        "sepctl models import FOLDER --name NAME")
UNWRITABLE = "choose a folder that you may write to (SEPCTL_CACHE names the one for pulled models)"


class Broken(Exception):
    """The transfer stopped early; what has arrived is kept, and the rest can be asked for."""


def download(url: str, target: Path, *, sha256: str, progress: Progress | None = None,
             timeout_s: float = 30.0, attempts: int = 5, pause_s: float = 1.0) -> str:
    """Fetch `url` into `target` and return the file's SHA-256, which must begin with `sha256`.

    Bytes gather in `target` + `.part`, which outlives failures and is continued by the next call (HTTP Range;
    servers without it start over). Gives up after `attempts` connections in a row, `pause_s` and then doubling
    pauses apart, that brought nothing new, or were silent for `timeout_s`.
    Raises `ModelError` for a network that fails and for a wrong hash, `ResourceError` for a full disk.
    """
    part = target.with_name(target.name + ".part")
    resumed, furthest, failures = _size(part) > 0, _size(part), 0
    while True:
        try:
            _receive(url, part, timeout_s, progress or (lambda name, done, total: None))
        except Broken as error:
            resumed = True
            failures = 1 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures >= attempts:
                raise ModelError(f"{url}: the connection broke {failures} times: {error}",
                                 hint=f"run the same command again, it continues at byte {_size(part):,}; or {HINT}",
                                 ) from error
            time.sleep(pause_s * 2 ** (failures - 1))
            continue
        digest = file_sha256(part)
        if digest.startswith(sha256):
            part.replace(target)
            return digest
        part.unlink()
        if not resumed:
            raise ModelError(f"{url}: its SHA-256 is {digest}, expected {sha256}; nothing of it is kept",
                             hint="the file was altered on the server or on the way: try again from another network")
        resumed, furthest, failures = False, 0, 0      # the kept part may have been bad: once more from the start


def _receive(url: str, part: Path, timeout_s: float, progress: Progress) -> None:
    """Append to `part` what is missing of `url`. Raises `Broken` if the end is not reached."""
    start = _size(part)
    headers = {"User-Agent": f"sepctl/{__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        opener = urllib.request.build_opener()          # a new one, so that it sees today's proxy settings
        with opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s) as response:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                start = 0                               # Range was not asked for, or ignored
            length = response.headers.get("Content-Length")
            total = start + int(length) if length else None
            _write(response, part, start, total, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416:                           # nothing is left to ask for: the hash decides
            return
        if error.code in TRANSIENT:
            raise Broken(f"HTTP {error.code} {error.reason}") from error
        raise ModelError(f"{url}: the server says {error.code} {error.reason}", hint=HINT) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, (TimeoutError, ConnectionResetError)):
            raise Broken(str(error.reason)) from error
        hint = f"SSL_CERT_FILE names the certificates of your proxy; or {HINT}"
        secure = isinstance(error.reason, ssl.SSLError)
        raise ModelError(f"{url} cannot be reached: {error.reason}", hint=hint if secure else HINT) from error
    except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        raise Broken(str(error) or type(error).__name__) from error


def _write(response: http.client.HTTPResponse, part: Path, start: int, total: int | None, progress: Progress) -> None:
    """Write the body of `response` behind the `start` bytes that `part` has; anew if `start` is 0."""
    done = start
    try:
        file = part.open("ab" if start else "wb")
    except OSError as error:
        raise write_error(part, error, hint=UNWRITABLE) from error
    with file:
        progress(part.stem, done, total)
        while block := response.read1(BLOCK):           # whatever has arrived: a break then loses nothing
            try:
                file.write(block)
            except OSError as error:
                raise write_error(part, error, hint=UNWRITABLE) from error
            done += len(block)
            progress(part.stem, done, total)
        try:
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise write_error(part, error, hint=UNWRITABLE) from error
    if total is not None and done < total:
        raise Broken(f"{done:,} of {total:,} bytes arrived")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
