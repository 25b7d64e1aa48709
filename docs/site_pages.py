"""MkDocs hook: pages of the site that are made from files elsewhere in the repository.

README.md, CONTRIBUTING.md and CHANGELOG.md with links adjusted, notebooks as Markdown, and one page of the
API reference per folder of jaxcnn/, from its docstrings.
"""

import json
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files, config):
    made = {page: from_root((ROOT / name).read_text()) for name, page in PAGES.items()}
    made |= {
        f"notebooks/{path.stem}.md": from_notebook(json.loads(path.read_text()))
        for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
    }
    made |= reference()
    for path in sorted((ROOT / "results").rglob("*.png")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown, **_):
    """Pages of docs/ link to pictures in results/, which the site holds next to them."""
    return markdown.replace("](../results/", "](results/")


def from_root(text):
    """A page of the repository's root with its links as they are in the site."""

    def link(match):
        target = match[1].removeprefix("docs/")
        return f"]({PAGES.get(target, target).replace('.ipynb', '.md')})"

    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", link, text)


def from_notebook(notebook):
    """A notebook's Markdown, code and text outputs as one page."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            parts.append("```text\n" + "".join(text).rstrip() + "\n```")
    return "\n\n".join(parts) + "\n"


def reference():
    """Pages of the API reference, by name."""
    package, pages = ROOT / "jaxcnn", {}
    for path in sorted(package.iterdir()):
        name = path.stem
        if name.startswith("__") or (path.is_file() and path.suffix != ".py"):
            continue
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        modules = [
            ".".join(["jaxcnn", *file.relative_to(package).with_suffix("").parts]) for file in files
        ]
        modules = [
            module.removesuffix(".__init__") for module in modules if "__main__" not in module
        ]
        blocks = [
            f"::: {module}\n"
            + ("    options:\n      members: false\n" if file.stem == "__init__" else "")
            for module, file in zip(modules, files, strict=True)
        ]
        if name not in ("cli", "malloc_tuning"):
            pages[f"reference/{name}.md"] = f"# jaxcnn.{name}\n\n" + "\n".join(blocks)
    pages["reference/jaxcnn.md"] = (
        "# jaxcnn\n\n`jaxcnn.build` makes a net, `jaxcnn.load` loads the net of a run.\n\n"
        "::: jaxcnn.models.build\n\n::: jaxcnn.training.load_run.load\n\n"
        "::: jaxcnn.training.load_run.Loaded\n\n::: jaxcnn.training.loop.run\n"
    )
    return pages
