"""The walls of the house: which room may import which, read off the syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxcnn"
# A room may import those of its own group and of groups before it.
GROUPS = [
    {"config", "models", "data", "preprocessing", "losses", "parallel", "malloc_tuning"},
    {"evaluation"},
    {"training"},
    {"planning"},
    {"research", "benchmarks"},
    {"cli"},
]


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def group(name):
    return next(i for i, rooms in enumerate(GROUPS) if name in rooms)


def imports(path):
    """Modules that a file imports, anywhere in it, absolute."""
    package = ["jaxcnn", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    mine = group(room(path))
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "jaxcnn" and len(parts) > 1:
            assert group(parts[1]) <= mine, f"{path} imports {module}"
        if parts[0] in ("tensorflow", "tensorflow_datasets"):
            assert room(path) in ("data", "cli"), f"{path} imports {module}"
        if module.startswith("flax.linen"):
            assert room(path) == "models", f"{path} imports {module}"
        if parts[0] == "clu":
            assert path.name == "metrics_writer.py", f"{path} imports {module}"
        if parts[0] == "orbax":
            assert path.name == "checkpoint.py", f"{path} imports {module}"


def test_configs_are_pure_data():
    for path in sorted((PACKAGE.parent / "configs").rglob("*.py")):
        modules = {m.split(".")[0] for m in imports_of_text(path)}
        assert modules <= {"ml_collections", "configs"}, path


def imports_of_text(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


WITHOUT_TENSORFLOW = """
import sys
import importlib.machinery
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"):
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        raise ImportError("not to be imported here: " + spec.name)
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Refuse())
import pkgutil, importlib, jaxcnn
for module in pkgutil.walk_packages(jaxcnn.__path__, "jaxcnn."):
    if not module.name.startswith(("jaxcnn.data", "jaxcnn.cli")):
        importlib.import_module(module.name)
import jax, jax.numpy as jnp
net = jaxcnn.build("vgg", column="A", width=0.05, image_size=32, num_classes=5)
images = jnp.ones((2, 32, 32, 3))
variables = net.init(jax.random.key(0), images)
logits, aux = net.apply(variables, images)
assert logits.shape == (2, 5) and logits.dtype == jnp.float32 and aux == ()
print("done", [m for m in sys.modules if m.split(".")[0] == "tensorflow"], "absl.flags" in sys.modules)
"""


def test_everything_but_data_works_where_tensorflow_cannot_be_imported():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done []")
