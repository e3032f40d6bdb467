"""One model, one self-describing safetensors file: the card as JSON in the metadata, then the weights.

No pickle is ever read here. Reading a card touches the header only and does not import torch.
The layout is that of https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from separator.atomic import replacing
from separator.card import ModelCard, TrunkSpec, UmxSpec
from separator.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FORMAT = "sepctl-1"
FAMILIES = tuple(get_args(spec.model_fields["family"].annotation)[0] for spec in (UmxSpec, TrunkSpec))
HEADER_LIMIT = 100_000_000      # bytes; the limit of the safetensors library
SHOWN_KEYS = 4                  # of many wrong keys, an error message names these


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits, in constant memory. Raises `ModelError` if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise _read_error(path, error) from error
    return digest.hexdigest()


def read_card(path: Path) -> ModelCard:
    """The card of a model file; reads its header only, and checks that the file is as long as the header says.

    Raises `ModelError` for anything that is not a complete model file of this format.
    """
    metadata = _read_header(path).get("__metadata__", {})
    found = metadata.get("format")
    if found is None:
        raise ModelError(f"{path} is a safetensors file, but not a sepctl model",
                         hint="sepctl reads the files that it trained or imported itself")
    if found != FORMAT:
        raise ModelError(f"{path} has the format {found!r}; this sepctl reads {FORMAT!r}",
                         hint="update sepctl, or make the file again with this version")
    try:
        fields = json.loads(metadata["card"])
        family = fields["spec"]["family"]
        fields.pop("fade_s", None)      # of files from before the transform's own window was the cross-fade
        if family not in FAMILIES:
            raise ModelError(f"{path} is of the unknown family {family!r}; known: {', '.join(FAMILIES)}",
                             hint="a newer sepctl may know it")
        return ModelCard.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ModelError(f"{path}: its card is not valid: {place + ': ' if place else ''}{fault['msg']}",
                         hint="a newer sepctl may read it; else make the file again") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} has no readable card", hint="make the file again") from error


def save(path: Path, card: ModelCard, estimator: nn.Module, *, dtype: torch.dtype | None = None) -> str:
    """Write a model file atomically and return its SHA-256; the same model gives the same bytes.

    `dtype` is float32 (default) or float16, in which matrices are stored; vectors (biases, statistics, scales)
    stay float32: they cost next to nothing, and variances may exceed the range of float16.
    Raises `ModelError` for weights that do not fit the card, or are NaN or infinite in `dtype`,
    `ResourceError` for a full disk.
    """
    import torch

    dtype = dtype or torch.float32
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"weights are stored as float32 or float16, not {dtype}")
    tensors = {}
    for key, tensor in estimator.state_dict().items():
        if tensor.is_floating_point():
            tensor = tensor.to(dtype if tensor.ndim > 1 else torch.float32)
        tensors[key] = tensor.detach().cpu().contiguous()
    _check(f"the weights to save as {path}", _build(f"the card of {card.name}", card), tensors)
    digest = hashlib.sha256()
    with replacing(path) as file:
        for block in _serialise({"format": FORMAT, "card": card.model_dump_json()}, tensors):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def load(path: Path) -> tuple[ModelCard, nn.Module]:
    """Card and estimator of a model file: weights on the CPU, in float32, in evaluation mode.

    Raises `ModelError` where `read_card` does, and for keys, shapes or values that do not fit the card.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card = read_card(path)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="get or make the file again") from error
    return card, assemble(str(path), card, weights)


def assemble(name: str, card: ModelCard, weights: Mapping[str, Tensor]) -> nn.Module:
    """The estimator of `card` holding `weights`, widened to float32; `name` says in messages whose they are.

    Raises `ModelError` for keys, shapes or values that do not fit the card.
    """
    estimator = _build(name, card)
    widened = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in weights.items()}
    _check(name, estimator, widened)
    estimator.load_state_dict(widened, strict=True, assign=True)
    return estimator.eval()


def _build(name: str, card: ModelCard) -> nn.Module:
    """An estimator whose parameters are not initialised: random numbers for four networks take 0.15 s."""
    from torch.overrides import TorchFunctionMode

    from separator.models import build

    class WithoutInit(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__module__", None) == "torch.nn.init":
                return args[0] if args else kwargs["tensor"]
            return func(*args, **(kwargs or {}))

    try:
        with WithoutInit():
            return build(card)
    except (RuntimeError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise ModelError(f"{name} describes a network that cannot be built: {error}",
                         hint="a newer sepctl may know how; else make the file again") from error


def _check(name: str, estimator: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise `ModelError` unless keys, shapes and kinds are the estimator's, and every number is finite."""
    expected = estimator.state_dict()
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    shapes = [f"{key} is {_form(weights[key])} instead of {_form(expected[key])}"
              for key in sorted(expected.keys() & weights.keys()) if _form(weights[key]) != _form(expected[key])]
    faults = [f"{fault}: {_some(keys)}" for fault, keys in
              (("missing keys", missing), ("unknown keys", extra), ("wrong shapes", shapes)) if keys]
    if faults:
        raise ModelError(f"{name} does not fit its card; {'; '.join(faults)}",
                         hint="the file was made for another architecture or version: get or make it again")
    broken = [key for key, tensor in weights.items() if tensor.is_floating_point() and not _finite(tensor)]
    if broken:
        raise ModelError(f"{name} holds NaN or infinite numbers in {_some(broken)}",
                         hint="the training diverged, the file is damaged, or float16 is too narrow for it")


def _form(tensor: Tensor) -> str:
    """Kind and shape in words: precision may differ, but numbers never turn into integers."""
    return f"{'float' if tensor.is_floating_point() else str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite: the extremes tell, forty times faster than asking every number."""
    return all(bool(extreme.isfinite()) for extreme in tensor.aminmax())    # NaN, if any, is both extremes


def _some(keys: list[str]) -> str:
    more = len(keys) - SHOWN_KEYS
    return ", ".join(keys[:SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")


def _serialise(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Iterable[bytes]:
    """The bytes of a safetensors file, in a fixed order (the library's own writer shuffles the metadata)."""
    import torch

    codes = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}
    keys = sorted(tensors, key=lambda key: (-tensors[key].itemsize, key))     # wide ones first: all stay aligned
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for key in keys:
        tensor, start = tensors[key], end
        end += tensor.nbytes
        header[key] = {"dtype": codes[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for key in keys:
        yield tensors[key].numpy().tobytes()


def _read_header(path: Path) -> dict[str, Any]:
    """The safetensors header, checked against the file's length."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            size, total = int.from_bytes(start, "little"), path.stat().st_size
            if size > HEADER_LIMIT or len(start) < 8:
                raise _foreign(path, start)
            text = file.read(size)
    except OSError as error:
        raise _read_error(path, error) from error
    try:
        if len(text) < size:
            raise _truncated(path, total)
        header: dict[str, Any] = json.loads(text)
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        if not isinstance(header.get("__metadata__", {}), dict):
            raise TypeError
        whole = 8 + size + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise _foreign(path, start) from error
    if total != whole:
        raise _truncated(path, total, whole)
    return header


def _read_error(path: Path, error: OSError) -> ModelError:
    if isinstance(error, FileNotFoundError):
        return ModelError(f"{path} does not exist", hint="`sepctl models list` names the models at hand")
    if path.is_dir():
        return ModelError(f"{path} is a folder, not a model file",
                          hint=f"if it holds Open-Unmix .pth files: sepctl models import {path} --name NAME")
    return ModelError(f"{path} cannot be read: {error.strerror or error}", hint="check its permissions")


def _truncated(path: Path, total: int, whole: int | None = None) -> ModelError:
    size = f"{total:,} bytes" + (f" instead of {whole:,}" if whole else "")
    return ModelError(f"{path} is truncated or damaged: {size}", hint="get or make the file again")


def _foreign(path: Path, start: bytes) -> ModelError:
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return ModelError(f"{path} is a pickle or an archive of one, and could run any code: sepctl never loads those",
                          hint="for Open-Unmix .pth files: sepctl models import FOLDER --name NAME")
    return ModelError(f"{path} is not a model file", hint="`sepctl models list` names the models at hand")
