"""`sepctl doctor`: what is installed here, and whether `sepctl split` would work."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator
from typing import Any

import click

from separator import __version__
from separator.errors import ModelError, SepctlError

PACKAGES = ("torch", "torchaudio", "av", "soundfile", "soxr", "numpy", "safetensors", "pydantic", "musdb", "museval")
# Output format -> the FFmpeg encoders that can make it, best first; of ogg there is libsndfile's.
ENCODERS = {"wav": ("pcm_s16le", "pcm_s24le", "pcm_f32le"), "flac": ("flac",), "mp3": ("libmp3lame",),
            "opus": ("libopus",), "m4a": ("aac",)}
DEFAULT_MODEL = "mini"


@click.command(short_help="Check this installation and say what it can do.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Print versions, devices, codecs, models and the cache folder.

    The exit code is 0 where `sepctl split` with the default model would work, and 4 where that model is missing.
    """
    problem = _problem()
    report = {"versions": _versions(), "compute": _compute(), "codecs": _codecs(), "models": _models(),
              "cache": _cache(), "problem": None if problem is None else str(problem)}
    if as_json:
        click.echo(json.dumps(report))
    else:
        _print(report)
    if problem is not None:
        raise problem


def _versions() -> dict[str, str]:
    found = {"sepctl": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    import av

    for library in ("libavcodec", "libavformat"):
        found[library] = ".".join(str(part) for part in av.library_versions[library])
    return found


def _compute() -> dict[str, Any] | None:
    """Threads, instruction sets and devices; None where torch does not import."""
    try:
        import torch
    except (ImportError, OSError):
        return None
    from separator.dsp import stereo

    cpu = torch.cpu.get_capabilities()
    devices = [{"name": torch.cuda.get_device_name(index),
                "memory_gb": round(torch.cuda.get_device_properties(index).total_memory / 1e9, 1)}
               for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    return {"cpu": cpu["cpu_name"], "cores": cpu["num_physical_cores"], "threads": torch.get_num_threads(),
            "torch_build": torch.__version__, "simd": torch.backends.cpu.get_cpu_capability(), "cuda": devices,
            "compiled_filter": stereo.compiled() is not None,
            "cpu_bf16": bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16") or cpu.get("arm_bf16")),
            "cuda_bf16": bool(devices) and torch.cuda.is_bf16_supported()}


def _codecs() -> dict[str, list[str]]:
    import av
    import soundfile

    found = {name: [each for each in encoders if each in av.codecs_available] for name, encoders in ENCODERS.items()}
    return {**found, "ogg": ["libsndfile"] if "VORBIS" in soundfile.available_subtypes("OGG") else []}


def _models() -> list[dict[str, Any]]:
    """Every known model, with its file, or why there is none that can be used."""
    from separator import registry

    found: list[dict[str, Any]] = []
    for name in registry.names():
        try:
            found.append({"name": name, "file": str(registry.resolve(name, offline=True)), "problem": None})
        except SepctlError as error:
            found.append({"name": name, "file": None, "problem": error.fact})
    return found


def _cache() -> dict[str, Any]:
    """The cache folder, or the nearest folder above it that exists, decides about space and permission."""
    from separator import registry

    folder = registry.cache_folder()
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return {"folder": str(folder), "exists": folder.is_dir(), "writable": os.access(there, os.W_OK),
            "free_gb": round(shutil.disk_usage(there).free / 1e9, 1)}


def _problem() -> SepctlError | None:
    """Why `sepctl split` would not work, or None. The weights of the default model are really loaded."""
    from separator import registry
    from separator.modelfile import load

    try:
        load(registry.resolve(DEFAULT_MODEL, offline=True))
    except ModelError as error:
        return error
    except (ImportError, OSError) as error:
        return SepctlError(f"torch does not import: {error}", hint="install sepctl again into a fresh environment")
    return None


def _print(report: dict[str, Any]) -> None:
    cache = report["cache"]
    state = "writable" if cache["writable"] else "NOT writable"
    lines = [*report["versions"].items(), *_compute_lines(report["compute"])]
    lines += [(f".{name}", ", ".join(found) or "cannot be written") for name, found in report["codecs"].items()]
    lines += [(each["name"], each["file"] or each["problem"]) for each in report["models"]]
    lines += [("cache", f"{cache['folder']}, {state}, {cache['free_gb']} GB free")]
    for name, text in lines:
        click.echo(f"{name:<14}{text}")
    if report["problem"] is None:
        click.echo(f"sepctl split works with the model {DEFAULT_MODEL}")


def _compute_lines(compute: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    if compute is None:
        yield "compute", "torch does not import"
        return
    bf16 = {True: ", bf16", False: ""}
    yield "cpu", (f"{compute['cpu']}, {compute['cores']} cores, {compute['threads']} threads, {compute['simd']}"
                  f"{bf16[compute['cpu_bf16']]}")
    yield "filter", ("compiled" if compute["compiled_filter"] else
                     "not compiled, so slower: install sepctl again where there is gcc or clang")
    if not compute["cuda"]:
        yield "cuda", f"no device (torch {compute['torch_build']})"
    for index, each in enumerate(compute["cuda"]):
        yield f"cuda:{index}", f"{each['name']}, {each['memory_gb']} GB{bf16[compute['cuda_bf16']]}"
