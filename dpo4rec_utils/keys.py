"""What tells one result from another: its inputs by content, the code that makes it, the libraries that compute.

Arrays and tables enter a key by their bytes, code by the module that builds a stage with everything it imports of this
package, libraries by what those modules import. Kept by hand are two lists alone: the modules that move results without
making them, and the libraries that compute.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

PACKAGE = "dpo4rec_utils"
# What moves results between stages without changing them, and plain data: settings enter a key by value, assets by
# hash, arms by the texts that they lead to, entries of a registry by name and code.
MOVERS = "store meter environment files keys locks assets config data_config sections settings arms variants registries device"
INFRASTRUCTURE = frozenset([PACKAGE, *(f"{PACKAGE}.{name}" for name in MOVERS.split())])
# Import name -> the distributions whose versions decide its numbers.
LIBRARIES = {
    "torch": ("torch",),
    "transformers": ("transformers", "tokenizers"),
    "openvino_genai": ("openvino-genai", "openvino", "openvino-tokenizers"),
    "trl": ("trl", "accelerate"),
    "peft": ("peft",),
    "gguf": ("gguf",),
    "sentence_transformers": ("sentence-transformers",),
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "sklearn": ("scikit-learn",),
    "pandas": ("pandas",),
}


# Read now, so that a file that is edited while a kernel runs does not name what the kernel computed with the older
# code.
_SOURCES = {str(path): path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("*.py")}


def content_key(content) -> str:
    """16 hex digits of the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(*arrays) -> str:
    """16 hex digits for NumPy arrays, pandas tables or None by their content, shapes and types."""
    digest = hashlib.sha256()
    for array in arrays:
        if isinstance(array, pd.DataFrame):
            digest.update(repr(list(array.columns)).encode())
            array = pd.util.hash_pandas_object(array.astype(str), index=False).to_numpy()
        array = np.ascontiguousarray(np.empty(0) if array is None else array)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes() if array.dtype != object else repr(array.tolist()).encode())
    return digest.hexdigest()[:16]


@functools.cache
def code_of(module: str) -> frozenset[str]:
    """The modules of this package that `module` is made of: itself and all it imports, infrastructure left out."""
    modules, waiting, packages = set(), [module], {PACKAGE, module.split(".")[0]}
    while waiting:
        name = waiting.pop()
        if name not in modules and name not in INFRASTRUCTURE:
            modules.add(name)
            waiting += [imported for imported in _imports(name) if imported.split(".")[0] in packages]
    return frozenset(modules)


@functools.cache
def code_key(module: str) -> str:
    """16 hex digits for the code of `code_of(module)`; comments, docstrings and layout do not count."""
    return content_key([(name, ast.unparse(_without_docstrings(_tree(name)))) for name in sorted(code_of(module))])


@functools.cache
def library_versions(module: str) -> dict[str, str]:
    """Distribution -> version of the libraries that compute in `code_of(module)`."""
    imported = {name.split(".")[0] for part in code_of(module) for name in _imports(part)}
    distributions = sorted(distribution for name in imported & set(LIBRARIES) for distribution in LIBRARIES[name])
    return installed_versions(distributions)


def installed_versions(distributions) -> dict[str, str]:
    """Distribution -> installed version. One that is not installed is left out: OpenVINO is an extra that a GPU does
    without."""
    versions = {}
    for name in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _tree(module: str) -> ast.Module:
    origin = importlib.util.find_spec(module).origin
    return ast.parse(_SOURCES.get(origin) or Path(origin).read_text(encoding="utf-8"))


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
    """Absolute names of the modules that `module` imports, inside functions too."""
    names = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(module, node)
            names.add(origin)
            if origin.split(".")[0] in (PACKAGE, module.split(".")[0]):
                # `from package import module` names a module, or a thing in one
                inside = (f"{origin}.{alias.name}" for alias in node.names)
                names |= {name for name in inside if _is_module(name)}
    return tuple(sorted(names))


def _origin(module: str, node: ast.ImportFrom) -> str:
    """Where `from ... import` takes from, relative imports resolved."""
    if not node.level:
        return node.module
    is_package = importlib.util.find_spec(module).submodule_search_locations is not None
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    return tree
