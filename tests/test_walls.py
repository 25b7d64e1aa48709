"""Import rules of design.md, read from the syntax trees: direction, cycles, one place for some packages."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "jaxcnn"
# A room may import rooms of its own group and of earlier groups. Planning comes after training, because a
# forecast compiles the run's own train step; training knows nothing of planning.
GROUPS = [
    {
        "config",
        "models",
        "data",
        "preprocessing",
        "losses",
        "parallel",
        "malloc_tuning",
        "files",
        "folders",
        "file_errors",
        "file_shapes",
        "caches",
        "paths",
        "retries",
        "object_store",
        "streams",
        "jax_settings",
        "limits",
        "printable",
    },
    {"evaluation", "weights"},
    {"training"},
    {"planning"},
    {"research"},
    {"benchmarks"},
    {"cli"},
]
# The only file or folder that may import a package, and whether it may do so at its start.
ONE_PLACE = {
    "tensorflow": ("data/tensorflow.py", False),
    "tensorflow_datasets": ("data/tensorflow.py", False),
    # It imports TensorFlow, which data/tensorflow.py has to configure first.
    "jax.experimental.jax2tf": ("weights/programs/savedmodel.py", False),
    "flax.linen": ("models", True),
    "clu": ("training/metrics_writer.py", False),
    "orbax": ("training/orbax_manager.py", True),
    "tensorstore": ("object_store.py", False),
    "etils": ("paths.py", True),
}
# Optional or slow to import: only inside the function that needs them.
INSIDE_FUNCTIONS = (
    "torch", "torchvision", "keras", "onnx", "h5py", "scipy", "sklearn", "matplotlib",
)  # fmt: skip

FILES = {
    ".".join(["jaxcnn", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(path, package=()):
    """(absolute module, when) for each import of a file: "start", "late" (in a function) or "typing"."""

    def visit(node, when):
        if isinstance(node, ast.Import):
            yield from ((alias.name, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, when
            yield from ((f"{module}.{alias.name}", when) for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and when == "start":
            when = "late"
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            when = "typing"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, when)

    return list(visit(ast.parse(path.read_text()), "start"))


IMPORTS = {
    path: imports(path, ("jaxcnn", *path.relative_to(PACKAGE).parts[:-1]))
    for path in FILES.values()
}


def group(name):
    return next(i for i, rooms in enumerate(GROUPS) if name in rooms)


def test_every_room_belongs_to_one_group():
    rooms = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in FILES.values()}
    assert rooms - {"__init__", "__main__"} == set().union(*GROUPS)


def test_imports_point_one_way():
    wrong = []
    for path, found in IMPORTS.items():
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        for module, _ in found:
            parts = module.split(".")
            if parts[0] == "jaxcnn" and len(parts) > 1 and group(parts[1]) > group(room):
                wrong.append(f"{path} imports {module}")
    assert not wrong


def test_no_import_cycle_between_modules():
    """Imports that run when a module is imported; those inside functions may point back."""
    graph = {}
    for name, path in FILES.items():
        found = {module for module, when in IMPORTS[path] if when == "start"}
        # `from jaxcnn.data import decode` names the package too, but uses only the module.
        with_names = {module.rpartition(".")[0] for module in found - FILES.keys()}
        only_named = {module.rpartition(".")[0] for module in found & FILES.keys()} - with_names
        graph[name] = (found & FILES.keys()) - only_named - {name}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from None


def test_packages_are_imported_where_they_may_be():
    wrong = []
    for path, found in IMPORTS.items():
        place = path.relative_to(PACKAGE).as_posix()
        for module, when in found:
            for name, (allowed, at_the_top) in ONE_PLACE.items():
                if _within(module, name) and not (
                    _within(place, allowed, "/") and (when != "start" or at_the_top)
                ):
                    wrong.append(f"{path} imports {module}")
            if module.split(".")[0] in INSIDE_FUNCTIONS and when == "start":
                wrong.append(f"{path} imports {module} outside a function")
    assert not wrong


def _within(name, parent, separator="."):
    return name == parent or name.startswith(parent + separator)


def test_configs_are_pure_data():
    for path in sorted((PACKAGE.parent / "configs").rglob("*.py")):
        assert {m.split(".")[0] for m, _ in imports(path)} <= {"ml_collections", "configs"}, path


WITHOUT_TENSORFLOW = """
import sys
import importlib.machinery
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"):
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        raise ImportError("must not be imported here: " + spec.name)
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Refuse())
import pkgutil, importlib, jaxcnn
for module in pkgutil.walk_packages(jaxcnn.__path__, "jaxcnn."):
    if not module.name.startswith(("jaxcnn.data", "jaxcnn.cli")):
        importlib.import_module(module.name)
import jax, jax.numpy as jnp
net = jaxcnn.build("vgg", column="A", width=0.05, image_size=32, num_classes=5)
images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
(logits, aux), _ = jax.eval_shape(net.init_with_output, jax.random.key(0), images)
assert logits.shape == (2, 5) and logits.dtype == jnp.float32 and aux == ()
print("done", [m for m in sys.modules if m.split(".")[0] == "tensorflow"], "absl.flags" in sys.modules)
"""


def test_everything_but_data_works_without_tensorflow():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done []")


_MAKERS = ("expanduser", "expandvars", "abspath")


def _decides_what_a_path_is(node):
    """Whether a node expands `~`, makes a path absolute as text, or looks for a scheme in it."""
    if isinstance(node, ast.Attribute) and node.attr in _MAKERS:
        return True
    looks = ("startswith", "removeprefix", "partition", "split", "find", "match", "fullmatch")
    parts = []
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in looks:
        parts = node.args
    elif isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
    texts = [p.value for part in parts for p in ast.walk(part) if isinstance(p, ast.Constant)]
    return any(isinstance(text, str) and "://" in text for text in texts)


def test_only_paths_decides_what_a_path_is():
    signs = ("://", *_MAKERS)
    texts = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in FILES.values()}
    found = [
        (name, ast.unparse(node))
        for name, text in texts.items()
        if any(sign in text for sign in signs)
        for node in ast.walk(ast.parse(text))
        if _decides_what_a_path_is(node)
    ]
    assert [one for one in found if one[0] != "paths.py"] == []
    assert len(found) > 3
