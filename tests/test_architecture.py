"""What no single module can promise: who imports whom, and what appears nowhere."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import eyebright

PACKAGE = Path(eyebright.__file__).parent

# A module imports only from modules above it.
ORDER = [
    "eyebright.errors",
    "eyebright.machine",
    "eyebright.ranks",
    "eyebright.signals",
    "eyebright.console",
    "eyebright.nearby",
    "eyebright.files",
    "eyebright.config",
    "eyebright.recipes",
    "eyebright.distributed",
    "eyebright.runtime",
    "eyebright.picture_parts",
    "eyebright.images",
    "eyebright.data.cache",
    "eyebright.data.splits",
    "eyebright.data.look",
    "eyebright.data.views",
    "eyebright.data.streams",
    "eyebright.data.tars",
    "eyebright.data.dataset",
    "eyebright.data.decisions",
    "eyebright.data.labels",
    "eyebright.data.decoding",
    "eyebright.data.pixels",
    "eyebright.data.reading",
    "eyebright.data.folders",
    "eyebright.data.archives",
    "eyebright.data.cifar",
    "eyebright.data.named",
    "eyebright.data.rows",
    "eyebright.data.tables",
    "eyebright.data.index",
    "eyebright.data.contents",
    "eyebright.data.shards",
    "eyebright.data.sources",
    "eyebright.data",
    "eyebright.holdout",
    "eyebright.augment",
    "eyebright.order",
    "eyebright.batches",
    "eyebright.compiled",
    "eyebright.convolution",
    "eyebright.triton_kernels",
    "eyebright.triton_functions",
    "eyebright.kernels",
    "eyebright.layers",
    "eyebright.measuring",
    "eyebright.models",
    "eyebright.losses",
    "eyebright.uncompiled",
    "eyebright.optim",
    "eyebright.finite",
    "eyebright.metrics",
    "eyebright.calibration",
    "eyebright.answers",
    "eyebright.checkpoint",
    "eyebright.pretrained",
    "eyebright.trained_on",
    "eyebright.graphs",
    "eyebright.norms",
    "eyebright.training",
    "eyebright.features",
    "eyebright.regression",
    "eyebright.epochs",
    "eyebright.resume",
    "eyebright.saver",
    "eyebright.probe",
    "eyebright.onnx_file",
    "eyebright.exported_card",
    "eyebright.exported",
    "eyebright.prediction",
    "eyebright.classifier",
    "eyebright.in_graph",
    "eyebright.tracing",
    "eyebright.sorting",
    "eyebright.tabular",
    "eyebright.lake",
    "eyebright.embedding",
    "eyebright.loss_chain",
    "eyebright.attribution",
    "eyebright.explain",
    "eyebright.robustness",
    "eyebright.evaluation",
    "eyebright.records",
    "eyebright.wording",
    "eyebright.lock",
    "eyebright.packing",
    "eyebright.conversion",
    "eyebright.rereading",
    "eyebright.run",
    "eyebright.report.words",
    "eyebright.report.charts",
    "eyebright.report.gallery",
    "eyebright.report.plots",
    "eyebright.report.card",
    "eyebright.report.contents",
    "eyebright.report.page",
    "eyebright.report",
    "eyebright.tracking",
    "eyebright.keeper",
    "eyebright.listing",
    "eyebright.doctor",
    "eyebright.plan",
    "eyebright.pacer",
    "eyebright.choices",
    "eyebright.prepare",
    "eyebright.memory",
    "eyebright.jobs",
    "eyebright.paired",
    "eyebright.compare",
    "eyebright.quantized",
    "eyebright.export",
    "eyebright.drive",
    "eyebright.launch",
    "eyebright.several",
    "eyebright.space",
    "eyebright.database",
    "eyebright.study",
    "eyebright.verdict",
    "eyebright.search",
    "eyebright.report.search",
    "eyebright.hunt",
    "eyebright.finals",
    "eyebright.tune",
    "eyebright.audit.findings",
    "eyebright.audit.duplicates",
    "eyebright.audit.quality",
    "eyebright.audit.suspects",
    "eyebright.audit.found",
    "eyebright.audit.inspect",
    "eyebright.audit.review_words",
    "eyebright.audit.review",
    "eyebright.audit.review_server",
    "eyebright.audit",
    "eyebright.serve.numbers",
    "eyebright.serve.about",
    "eyebright.serve.net",
    "eyebright.serve.batching",
    "eyebright.serve.guard",
    "eyebright.serve.shapes",
    "eyebright.serve.serving",
    "eyebright.serve.app",
    "eyebright.serve.protocol",
    "eyebright.serve.door",
    "eyebright.serve.server",
    "eyebright.serve",
    "eyebright.cli.completing",
    "eyebright.cli.mistakes",
    "eyebright.cli.options",
    "eyebright.cli.pictures",
    "eyebright.cli.training",
    "eyebright.cli.judging",
    "eyebright.cli.keeping",
    "eyebright.cli.using",
    "eyebright.cli.shipping",
    "eyebright.cli.chain",
    "eyebright.cli.explaining",
    "eyebright.cli.searching",
    "eyebright.cli",
    "eyebright.__main__",
    "eyebright",  # the public names: nothing inside the package imports them from there
]
FOR_SERVING = {"fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client"}
FOR_TRAINING = {"torch", "torchvision", "numpy", "PIL", "safetensors", "typer", "rich"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def nodes_that_run(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, without those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from (other, *nodes_that_run(other))
            continue
        yield node
        yield from nodes_that_run(node)


def imports(tree: ast.AST, module: str = "", is_package: bool = False) -> set[str]:
    """The modules that a module imports, anywhere in it."""
    found = set()
    for node in nodes_that_run(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, *([base] if base else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            # `from eyebright import metrics` imports a module; other names live in the base.
            found |= names & FILES.keys()
            if not names <= FILES.keys():
                found.add(base)
    return found


def calls(tree: ast.AST) -> list[str]:
    """What is called, as it is written: ``eval``, ``model.eval``, ``optimizer.step``."""
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def python(code: str, *arguments: str) -> str:
    """The output of a fresh Python that runs this code without complaint."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_finder_finds_what_it_should() -> None:
    tree = ast.parse(
        "import os, typing\n"
        "from typing import TYPE_CHECKING\n"
        "from eyebright import metrics\n"
        "from eyebright.data import load, look\n"
        "from . import losses\n"
        "if TYPE_CHECKING:\n    import hidden\n"
        "if typing.TYPE_CHECKING:\n    import hidden2\nelse:\n    import seen\n"
        "def f():\n    class A:\n        from eyebright.run import Run\n"
    )
    assert imports(tree, "eyebright.launch") == {
        "os",
        "typing",
        "eyebright.metrics",
        "eyebright.data",
        "eyebright.data.look",
        "eyebright.losses",
        "seen",
        "eyebright.run",
    }
    inside = ast.parse("from . import cache\nfrom ..errors import DataError")
    assert imports(inside, "eyebright.data.cifar") == {"eyebright.data.cache", "eyebright.errors"}
    assert imports(inside, "eyebright.data", is_package=True) == {
        "eyebright.data.cache",
        "eyebright.errors",
    }


def test_every_module_has_its_place() -> None:
    assert sorted(ORDER) == sorted(FILES)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_modules_above_it(module: str) -> None:
    found = imports(TREES[module], module, FILES[module].name == "__init__.py")
    own = {name for name in found if name.split(".")[0] == "eyebright"}
    assert own <= set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize("module", [m for m in ORDER if m != "eyebright"])
def test_no_import_hides_in_a_call(module: str) -> None:
    hidden = {"__import__", "import_module", "importlib.import_module"}
    assert not hidden & set(calls(TREES[module]))


@pytest.mark.parametrize("module", ORDER)
def test_all_but_the_training_packages_are_imported_where_they_are_needed(module: str) -> None:
    at_once = set()
    for node in TREES[module].body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            at_once |= imports(ast.Module([node], []), module)
    packages = {name.split(".")[0] for name in at_once}
    # These are themselves imported where they are needed.
    packages -= {"triton"} if "triton" in module else set()
    packages -= FOR_SERVING if module.startswith("eyebright.serve.") else set()
    assert packages - sys.stdlib_module_names - {"eyebright"} <= FOR_TRAINING


def test_the_only_optimizer_step_is_in_training() -> None:
    steps = [
        (module, call)
        for module, tree in TREES.items()
        for call in calls(tree)
        if call.split(".")[-1] == "step" and "." in call
    ]
    assert steps == [("eyebright.training", "optimizer.step")]


@pytest.mark.parametrize("module", ORDER)
def test_nothing_runs_code_from_files(module: str) -> None:
    tree = TREES[module]
    allowed = {"pickle"} if module == "eyebright.data.cifar" else set()
    runs_code = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve"}
    runs_code |= {"marshal", "pickletools"}
    assert not ({name.split(".")[0] for name in imports(tree, module)} & runs_code) - allowed
    assert not {"eval", "exec", "compile", "np.load", "numpy.load"} & set(calls(tree))
    attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    foreign = {"torch.load"} if module == "eyebright.pretrained" else set()  # see below
    assert not ({"torch.load", "torch.save", "torch.jit", "torch.package"} & attributes) - foreign
    from_torch = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.serialization")
        for alias in node.names
    }
    assert not {"load", "save", "serialization"} & from_torch


def test_foreign_weights_are_read_as_tensors_only() -> None:
    loads = [
        node
        for node in ast.walk(TREES["eyebright.pretrained"])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert len(loads) == 1
    assert {k.arg: ast.unparse(k.value) for k in loads[0].keywords}["weights_only"] == "True"


def test_pickles_are_read_by_the_restricted_unpickler_alone() -> None:
    tree = TREES["eyebright.data.cifar"]
    (unpickler,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases)
    )
    assert "find_class" in {node.name for node in unpickler.body if hasattr(node, "name")}
    used = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"
    ]
    assert set(used) == {"pickle.Unpickler", "pickle.UnpicklingError"}
    assert used.count("pickle.Unpickler") == 1  # as the base class, and nowhere else
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "pickle" not in imported


def test_pictures_are_read_without_torch(class_folders: Callable[..., Path]) -> None:
    folder = class_folders("few", ("cat", "dog"))
    code = "import sys; from eyebright.data import load; load(sys.argv[1]); print(*sys.modules)"
    loaded = {name.split(".")[0] for name in python(code, str(folder)).split()}
    assert "eyebright" in loaded
    assert not loaded & {"torch", "torchvision", "sklearn", "timm", "matplotlib"}


def test_the_command_line_does_not_wait_for_heavy_packages() -> None:
    code = "import sys, eyebright.cli; print(*sys.modules)"
    loaded = {name.split(".")[0] for name in python(code).split()}
    assert "eyebright" in loaded
    assert not loaded & {"torch", "torchvision", "numpy", "PIL", "sklearn", "timm", "matplotlib"}


def test_help_lists_the_verbs_without_heavy_packages() -> None:
    code = (
        "import sys\nfrom eyebright.__main__ import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "    assert not {'torch', 'numpy', 'PIL'} & sys.modules.keys(), 'heavy'\n"
        "else:\n    raise AssertionError('no exit')\n"
    )
    text = python(code, "--help")
    for verb in ("look", "train", "val", "test", "predict"):
        assert f" {verb} " in text


def test_training_imports_only_what_training_needs() -> None:
    code = """
import sys
import numpy as np
import eyebright.launch
from eyebright.data import Dataset
generator = np.random.default_rng(0)
images = generator.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
data = Dataset(images, np.arange(40) % 2, ["a", "b"])
eyebright.launch.train(data, model="white16", epochs=1, device="cpu", quiet=True)
print(*sys.modules)
"""
    loaded = {name.split(".")[0] for name in python(code).split()}
    assert loaded >= {"eyebright", "torch", "safetensors"}
    assert not loaded & {"timm", "sklearn", "matplotlib", "pooch", "requests"}


def test_public_names_are_few_sorted_and_there() -> None:
    names = eyebright.__all__
    assert 1 <= len(names) <= 12
    # Ruff's order: constants, classes, functions.
    kinds = [0 if n.isupper() else 1 if n[0].isupper() else 2 for n in names]
    assert names == [n for _, n in sorted(zip(kinds, names, strict=True))]
    assert len(set(names)) == len(names)
    assert set(names) <= set(dir(eyebright))


@pytest.mark.parametrize("name", eyebright.__all__)
def test_each_public_name_is_the_one_of_its_module(name: str) -> None:
    thing = getattr(eyebright, name)
    home = getattr(thing, "__module__", "eyebright.recipes")  # RECIPES is a dict
    assert getattr(importlib.import_module(home), name) is thing
    assert home.startswith("eyebright.")


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = eyebright.nonsense


def test_every_case_of_the_battery_has_its_test() -> None:
    """Bad input, interruptions, hostile files, repetition: each case is named by its number."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    names = re.findall(r"^def test_battery_(\d\d)(?:_and_(\d\d))?_", tests, re.MULTILINE)
    found = {int(number) for pair in names for number in pair if number}
    assert found >= set(range(1, 36))
