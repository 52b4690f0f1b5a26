"""A model repository for NVIDIA Triton, whose python backend runs lowbit.

DIR/NAME/config.pbtxt       what the model takes and gives
DIR/NAME/1/model.py         `triton_model.py`
DIR/NAME/1/model.lowbit     the file
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from ..errors import InputError, UnsupportedError
from .predictor import Predictor, Tensor

T = TypeVar("T")
CONFIG, MODEL = "config.pbtxt", "model.lowbit"
DTYPES = {
    "float32": "FP32",
    "float64": "FP64",
    "float16": "FP16",
    "int64": "INT64",
    "int32": "INT32",
    "int8": "INT8",
    "uint8": "UINT8",
    "bool": "BOOL",
}
"""NumPy's dtypes in the words of the Open Inference Protocol; it has no complex numbers."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def pair(text: str | os.PathLike[str]) -> tuple[str, Path]:
    """The name and the file of `FILE` or `NAME=FILE`; without a name, a model is called as its file.

    Args:
        text: As a person writes it; a file that there is, is one, whatever its name.

    Returns:
        Both, not checked.
    """
    name, sign, file = os.fspath(text).partition("=")
    return (name, Path(file)) if sign and not Path(text).exists() else (Path(text).stem, Path(text))


def by_name(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """What is served, by name.

    Args:
        pairs: Names and files.

    Returns:
        Them.

    Raises:
        InputError: A name that could be no part of a path or of a URL, or two models of one name.
    """
    found: dict[str, T] = {}
    for name, file in pairs:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(f"{name!r} is no name for a model: letters, digits, ., - and _ are; write NAME=FILE")
        if name in found:
            raise InputError(f"{found[name]} and {file} would both be the model {name!r}: write NAME=FILE")
        found[name] = file
    return found


def named(files: Sequence[str]) -> dict[str, Path]:
    """The models that `FILE` and `NAME=FILE` name.

    Args:
        files: As a person writes them.

    Returns:
        The files by the models' names.

    Raises:
        InputError: As `by_name`, or a file that is not there.
    """
    found = by_name(map(pair, files))
    for path in found.values():
        if not path.is_file():
            raise InputError(f"there is no file {path}")
    return found


def write(
    models: Mapping[str, Path],
    directory: Path,
    *,
    threads: int = 1,
    instances: int = 1,
    python_path: Sequence[str] | None = None,
) -> dict[str, Path]:
    """Write a repository, or put models into one that there is: a model that is there gets a further version.

    Args:
        models: The files by the models' names.
        directory: The repository's.
        threads: Of one call.
        instances: Processes that run a model, each with weights of its own.
        python_path: Where Triton's Python finds lowbit, NumPy and safetensors. None: where this one found them.

    Returns:
        What was written: the directory of each model's version, by name.

    Raises:
        InputError: A directory that cannot be written to.
        UnsupportedError: A model that reads or gives what the protocol has no type for.
        FormatError, LimitError: As `lowbit.load`.
    """
    paths = here() if python_path is None else list(python_path)
    configs = {name: config(name, file, threads, instances, paths) for name, file in models.items()}
    try:
        return {name: _put(directory, name, models[name], text) for name, text in configs.items()}
    except OSError as error:
        raise InputError(f"{directory} cannot be written to: {error}") from None


def config(name: str, file: Path, threads: int, instances: int, python_path: Sequence[str]) -> str:
    """A model's `config.pbtxt`.

    Args:
        name: The model's.
        file: A .lowbit file, which is loaded.
        threads: Of one call.
        instances: Processes that run it.
        python_path: Directories.

    Returns:
        Text of the message `inference.ModelConfig`.

    Raises:
        UnsupportedError: A model that reads or gives what the protocol has no type for.
        FormatError, LimitError: As `lowbit.load`.
    """
    reads, gives = Predictor(file, threads=threads).types()
    parameters = {"python_path": os.pathsep.join(python_path), "threads": str(threads)}
    lines = [f"name: {_text(name)}", 'backend: "python"', "max_batch_size: 0"]
    lines += [f"input {_tensor(each, tensor)}" for each, tensor in reads.items()]
    lines += [f"output {_tensor(each, tensor)}" for each, tensor in gives.items()]
    lines += [f"instance_group {{ count: {instances} kind: KIND_CPU }}"]
    lines += [
        f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}"
        for key, value in parameters.items()
    ]
    return "\n".join(lines) + "\n"


def here() -> list[str]:
    """Where this Python found what runs a model.

    Returns:
        Directories for `sys.path`.
    """
    return list(dict.fromkeys(_found("lowbit", "numpy", "safetensors")))


def _found(*packages: str) -> Iterator[str]:
    for package in packages:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            yield str(Path(spec.origin).resolve().parent.parent)


def _tensor(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in DTYPES:
        raise UnsupportedError(
            f"{name!r} is {tensor.dtype}, which the Open Inference Protocol has no type for: let the model take and "
            "give real and imaginary parts"
        )
    dims = ", ".join(str(size if isinstance(size, int) else -1) for size in tensor.shape or (1,))  # no scalars there
    return f"{{ name: {_text(name)} data_type: TYPE_{DTYPES[tensor.dtype]} dims: [ {dims} ] }}"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _put(repository: Path, name: str, file: Path, config: str) -> Path:
    """The version's directory. It is seen whole or not at all: Triton may look at any time."""
    model = repository / name
    repository.mkdir(parents=True, exist_ok=True)
    versions = [int(each.name) for each in model.iterdir() if each.name.isdecimal()] if model.exists() else []
    version = str(max(versions, default=0) + 1)
    with tempfile.TemporaryDirectory(prefix=".", dir=repository) as made:
        whole = Path(made, name)
        (whole / version).mkdir(parents=True)
        shutil.copyfile(Path(__file__).with_name("triton_model.py"), whole / version / "model.py")
        shutil.copyfile(file, whole / version / MODEL)
        (whole / CONFIG).write_text(config, encoding="utf-8")
        if model.exists():
            (whole / version).rename(model / version)
            (whole / CONFIG).replace(model / CONFIG)
        else:
            whole.rename(model)
    return model / version
