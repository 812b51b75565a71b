"""Build the documentation as pages to read in a browser: `make docs`.

    docs/**.md ──markdown2──> build/docs/**.html, index.html first
    docstrings ──pdoc──> build/docs/api/**.html
    both ──every name, path and heading that they point at──> one line for each that is not there, and exit code 1

Needs no network, and the pages ask for none. A module that cannot be imported fails the build.
"""

from __future__ import annotations

import ast
import html
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("operators", "stages", "pipeline", "model_training")
OUT = ROOT / "build" / "docs"
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}
main {{ padding: 1rem 1.25rem 4rem; }} main h1 {{ font-size: 2rem; color: var(--ink); }} h2 {{ margin-top: 2rem; }}
pre {{ overflow-x: auto; padding: .7rem; background: var(--track); }} td, th {{ text-align: left; }}
img {{ max-width: 100%; }}</style>
<div class="top"><nav><a href="{up}index.html">Documentation</a><a href="{up}api/index.html">Modules</a></nav></div>
<main>{body}</main></html>
"""


# --- what docstrings point at


class Names:
    """The names of the project are read from its source, without importing it."""

    def __init__(self, root: Path, rooms: tuple[str, ...] = ROOMS) -> None:
        self.root = root
        self.files = {
            ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
            for room in rooms
            for path in sorted((root / room).rglob("*.py"))
        }
        self.trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in self.files.items()}

    @cached_property
    def classes(self) -> dict[str, list[ast.ClassDef]]:
        found: dict[str, list[ast.ClassDef]] = {}
        for tree in self.trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, []).append(node)
        return found

    def broken(self) -> Iterator[str]:
        """Yield a line for each name or path in a docstring that leads nowhere."""
        for module, tree in self.trees.items():
            for line, text in docstrings(tree):
                for target in targets(text):
                    if not (self.is_file(target) if "/" in target else self.knows(target)):
                        yield f"{self.files[module].relative_to(self.root)}:{line}: {target} does not exist"

    def is_file(self, path: str) -> bool:
        return (self.root / path).is_file()

    def knows(self, name: str) -> bool:
        """Return whether a dotted name is one of the project's; those that begin with no module or class are not ours
        to judge (settings, files, variables).
        """
        parts = name.split(".")
        if parts[0] in self.classes:
            return self._has(parts[0], parts[1])
        if parts[0] not in self.files:
            return True
        at = max(length for length in range(1, len(parts) + 1) if ".".join(parts[:length]) in self.files)
        rest = parts[at:]
        if not rest:
            return True
        here = set(defined(self.trees[".".join(parts[:at])].body))
        return rest[0] in here and (len(rest) == 1 or rest[0] not in self.classes or self._has(rest[0], rest[1]))

    def _has(self, name: str, member: str) -> bool:
        return any(self._member(node, member) for node in self.classes[name])

    def _member(self, node: ast.ClassDef, member: str) -> bool:
        own = [self_assigned for each in ast.walk(node) if (self_assigned := attribute_of_self(each))]
        if member in {*defined(node.body), *own}:
            return True
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        return any(self._has(base, member) for base in bases if base in self.classes and base != node.name)


def attribute_of_self(node: ast.AST) -> str:
    own = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
    return node.attr if own and node.value.id == "self" else ""


def defined(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that a module's or a class's body defines or imports."""
    for node in body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign():
                yield from (each.id for each in ast.walk(node) if isinstance(each, ast.Name) and is_stored(each))
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name for alias in node.names)
            case ast.If() | ast.Try():
                yield from defined([*node.body, *node.orelse])


def is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each docstring, those of fields and constants too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def targets(text: str) -> Iterator[str]:
    """Yield the dotted names in code spans, and the paths below the folders of the repository."""
    yield from re.findall(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(\))?`", text)
    folders = "|".join((*ROOMS, "docs", "tests", "benchmarks", "examples", "deploy"))
    yield from re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./-]+\.(?:py|md|yaml|tsv|html|css))\b", text)


# --- pages


def drawings(text: str) -> str:
    """Return Markdown in which every drawing of a data flow is a block of code, so that its lines stay lines."""
    blocks = text.split("\n\n")
    drawn = [re.search("──|─[┬┐┤┘]|[└├]─", block) and not block.startswith("    ") for block in blocks]
    return "\n\n".join(
        re.sub("^", "    ", block.strip("\n"), flags=re.MULTILINE) if is_drawing else block
        for block, is_drawing in zip(blocks, drawn, strict=True)
    )


def write_pages(root: Path, out: Path) -> list[str]:
    """Write the Markdown of `docs/` as pages; return a line for each link to a heading that is not there."""
    import markdown2

    style = (ROOT / "operators" / "page" / "page.css").read_text(encoding="utf-8")
    headings: dict[Path, set[str]] = {}
    links: list[tuple[Path, Path, str]] = []
    for source in sorted((root / "docs").rglob("*.md")):
        text = source.read_text(encoding="utf-8")
        extras = ["fenced-code-blocks", "tables", "header-ids", "code-friendly", "cuddled-lists"]
        body = str(markdown2.markdown(text, extras=extras))
        headings[source] = set(re.findall(r'<h\d id="([^"]+)"', body))

        def moved(match: re.Match[str], source: Path = source) -> str:
            where, _, heading = match["target"].partition("#")
            aim = (source.parent / where).resolve() if where else source
            if heading:
                links.append((source, aim, heading))
            place = os.path.relpath(page_of(root, out, aim), page_of(root, out, source).parent) if where else ""
            return f'{match["kind"]}="{place}{"#" * bool(heading)}{heading}"'

        body = re.sub(r'(?P<kind>href|src|srcset)="(?!https?://)(?P<target>[^"]+)"', moved, body)
        page = page_of(root, out, source)
        page.parent.mkdir(parents=True, exist_ok=True)
        up = os.path.relpath(out, page.parent) + "/"
        title = html.escape(text.partition("\n")[0].lstrip("# "))
        page.write_text(PAGE.format(title=title, style=style, up=up, body=body), encoding="utf-8")
    return [
        f"{source.relative_to(root)}: {aim.name} has no heading #{heading}"
        for source, aim, heading in links
        if aim in headings and heading not in headings[aim]
    ]


def page_of(root: Path, out: Path, path: Path) -> Path:
    """Return where something that a page links to is read: a page, a module's page, or the checkout itself."""
    if path.suffix == ".md" and path.is_relative_to(root / "docs"):
        page = out / path.relative_to(root / "docs").with_suffix(".html")
        return page.with_name("index.html") if path.parent == root / "docs" and path.stem == "README" else page
    if path.suffix == ".py" and path.relative_to(root).parts[0] in ROOMS:
        return out / "api" / path.relative_to(root).with_suffix(".html")
    return path


def write_api(out: Path, modules: tuple[str, ...]) -> list[str]:
    """Write the pages of modules, and of all that they hold; return what went wrong, a line each."""
    import pdoc.render

    to_html = pdoc.render.to_html
    pdoc.render.configure(docformat="markdown", show_source=False, logo_link="../index.html", footer_text="touchasp")
    pdoc.render.env.filters["to_html"] = lambda text: to_html(drawings(text))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        # What pdoc itself says. It cannot read the types of a NamedTuple's fields: that is mypy's business.
        warnings.filterwarnings("always", module=r"pdoc\.")
        warnings.filterwarnings("ignore", message="Error parsing type annotation")
        try:
            pdoc.pdoc(*modules, output_directory=out)
        except RuntimeError as error:  # names the module; the cause says what is wrong with it
            return [f"{error}: {error.__cause__}"]
    return [str(warning.message).strip() for warning in caught]


def main() -> int:
    began = time.monotonic()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYANNOTE_METRICS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    shutil.rmtree(OUT, ignore_errors=True)
    wrong = [*Names(ROOT).broken(), *write_pages(ROOT, OUT), *write_api(OUT / "api", (*ROOMS, "touchasp"))]
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    if not wrong:
        print(f"{OUT / 'index.html'}, after {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
