"""Hooks of MkDocs that put the site together from pages, README, notebooks and the code.

`mkdocs.yml` names this file. The hooks do six things:

- A line `[text](../README.md#section "include")` becomes this section of README.
- A link to a file outside of `docs` becomes a link to a page with the content of this file.
- A link whose text is the name of a page, such as `docs/voices.md`, gets the page's title as its text.
- `<!-- fields NAME -->` becomes the table of the fields of a kind of JSON, see `site_reference.KINDS`. The
  line `<!-- recipe -->` becomes the fields of recipes, and `<!-- how-tos -->` the list of how-to pages.
- Each verb of the command line has a page in `reference/cli`.
- Each notebook of `docs` becomes a page, and the navigation lists all pages of `docs/how-to`.
"""

import os
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter
from site_reference import KINDS, cli_pages, fields_table, recipe_sections

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?P<after>\s+\"[^\"]*\")?\)")
FILE_NAME = re.compile(r"\[(?P<text>[\w./-]+\.md)\]\((?P<target>[^)\s#:]+\.md)")
INCLUDE = re.compile(r"^\[[^\]]*\]\((?P<file>[^)#]+)#(?P<anchor>[\w-]+) \"include\"\)$", flags=re.M)
FENCE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", flags=re.M | re.S)
HOW_TO, CLI = "how-to", "reference/cli"
SOURCES = "source"  # the folder of the site for files outside of docs
LANGUAGES = {".py": "python", ".toml": "toml", ".conf": "nginx", ".yml": "yaml", ".service": "ini"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation: `how-to/` stands for all pages of this folder, `reference/cli/` for all verbs."""
    docs = Path(config.docs_dir)
    how_tos = sorted(f"{HOW_TO}/{path.name}" for path in (docs / HOW_TO).glob("*.md"))
    verbs = [f"{CLI}/index.md", *(f"{CLI}/{verb}.md" for verb in _verbs() if verb)]
    config.nav = _filled(config.nav, {f"{HOW_TO}/": _index_first(how_tos), f"{CLI}/": verbs})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file of `docs` holds: verbs, notebooks, and files outside of `docs`."""
    for verb, text in _verbs().items():
        files.append(File.generated(config, f"{CLI}/{verb or 'index'}.md", content=text))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        for uri, content in _notebook(file).items():
            files.append(File.generated(config, uri, content=content))
        files.remove(file)
    outside = {
        path
        for file in files.documentation_pages()
        for path, _ in _outside_links(file.content_string, file.src_uri)
    }
    for path in sorted(outside - {"README.md"}):
        files.append(File.generated(config, _source_uri(path), content=_source_page(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with sections of README, tables of fields, the list of how-tos, and mended links."""
    uri = page.file.src_uri
    markdown = INCLUDE.sub(lambda found: _section(found["file"], found["anchor"], uri), markdown)
    markdown = re.sub(r"<!-- fields ([\w-]+) -->", lambda found: _table(found[1], uri), markdown)
    if "<!-- recipe -->" in markdown:
        markdown = markdown.replace("<!-- recipe -->", recipe_sections())
    if "<!-- how-tos -->" in markdown:
        markdown = markdown.replace("<!-- how-tos -->", _how_tos(files))
    return _with_links(markdown, uri, files)


# --- the navigation --------------------------------------------------------------------------------


def _filled(nav: Any, folders: dict[str, list[str]]) -> Any:
    if isinstance(nav, dict):
        return {title: _filled(part, folders) for title, part in nav.items()}
    if isinstance(nav, list):
        filled = (_filled(part, folders) for part in nav)
        return [entry for part in filled for entry in (part if isinstance(part, list) else [part])]
    return folders.get(nav, nav)


def _index_first(pages: list[str]) -> list[str]:
    return sorted(pages, key=lambda page: (not page.endswith("/index.md"), page))


def _how_tos(files: Files) -> str:
    """Return a list of all how-to pages with their titles."""
    lines = []
    for file in files.documentation_pages():
        if posixpath.dirname(file.src_uri) == HOW_TO and file.name != "index":
            lines.append(f"- [{_title(file)}]({posixpath.basename(file.src_uri)})")
    return "\n".join(lines)


def _title(file: File) -> str:
    title = re.search(r"^# (.+)$", file.content_string, flags=re.M)
    return title[1] if title else file.name


# --- the command line and JSON ---------------------------------------------------------------------

_pages: dict[str, str] = {}


def _verbs() -> dict[str, str]:
    """Return the pages of all verbs; they are made once for each build."""
    if not _pages:
        _pages.update(cli_pages())
    return _pages


def _table(name: str, uri: str) -> str:
    if name not in KINDS:
        raise PluginError(f"{uri}: no kind of JSON '{name}', expected one of {', '.join(KINDS)}")
    return fields_table(name)


# --- notebooks -------------------------------------------------------------------------------------


def _notebook(file: File) -> dict[str, str | bytes]:
    """Return the page of a notebook, as Markdown with its outputs, and the pictures of the page."""
    assert file.abs_src_path is not None
    notebook = nbformat.read(file.abs_src_path, as_version=4)
    body, resources = MarkdownExporter().from_notebook_node(
        notebook, resources={"unique_key": file.name, "output_files_dir": f"{file.name}_files"}
    )
    folder = posixpath.dirname(file.src_uri)
    pictures = {f"{folder}/{name}": content for name, content in resources["outputs"].items()}
    return {f"{folder}/{file.name}.md": body, **pictures}


# --- text and links from outside of docs -----------------------------------------------------------


def _section(file: str, anchor: str, uri: str) -> str:
    """Return a section of a file of the repository without its heading, with links from `docs`."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(uri), file))
    text = (ROOT / path).read_text(encoding="utf-8")
    lines, level, found = text.splitlines(), 0, []
    in_code = False
    for line in lines:
        in_code ^= line.startswith("```")
        heading = None if in_code else re.match(r"(#+) (.+)", line)
        if heading and level and len(heading[1]) <= level:
            break
        if level:
            found.append(line)
        elif heading and _anchor_of(heading[2]) == anchor:
            level = len(heading[1])
    if not level:
        raise PluginError(f"{uri}: {path} has no section '{anchor}'")
    relative = os.path.relpath(posixpath.dirname(path) or ".", posixpath.join("docs", posixpath.dirname(uri)))
    section = _moved("\n".join(found), relative)
    own = {_anchor_of(heading[1]) for heading in re.finditer(r"^#+ (.+)$", section, flags=re.M)}
    target = posixpath.join(relative, posixpath.basename(path))

    def mended(link: re.Match[str]) -> str:
        return link[0] if link[1] in own else f"]({target}#{link[1]}"

    return _outside_code(section, lambda part: re.sub(r"\]\(#([\w-]+)", mended, part))


def _anchor_of(title: str) -> str:
    return re.sub(r"[^\w-]", "", title.strip().lower().replace(" ", "-"))


def _moved(text: str, folder: str) -> str:
    """Return the text with links that are relative to `folder`."""

    def moved(found: re.Match[str]) -> str:
        if found["target"].startswith("/"):
            return found[0]
        target = posixpath.normpath(posixpath.join(folder, found["target"]))
        return f"]({target}{found['anchor'] or ''})"

    return _outside_code(text, lambda part: LINK.sub(moved, part))


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return the text with all parts changed that are no code."""
    return "".join(part if index % 2 else change(part) for index, part in enumerate(FENCE.split(text)))


def _outside_links(markdown: str, uri: str) -> Iterator[tuple[str, str]]:
    """Yield the path, from the root of the repository, and the anchor of each link that leaves `docs`."""
    folder = posixpath.join("docs", posixpath.dirname(uri))
    expanded = INCLUDE.sub(lambda found: _section(found["file"], found["anchor"], uri), markdown)
    for part in FENCE.split(expanded)[::2]:
        for found in LINK.finditer(part):
            path = posixpath.normpath(posixpath.join(folder, found["target"]))
            if not path.startswith(("docs/", "../", "/")) and (ROOT / path).exists():
                yield path, found["anchor"] or ""


def _with_links(markdown: str, uri: str, files: Files) -> str:
    """Return the page with links to pages of the site in place of links to files outside of `docs`."""
    folder = posixpath.join("docs", posixpath.dirname(uri))

    def target(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, found["target"]))
        anchor = found["anchor"] or ""
        if path == "README.md":
            page, anchor = _page_of_section(anchor.removeprefix("#"), files)
        elif path.startswith("docs/") and (ROOT / path).is_file():
            page = re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
        elif not path.startswith(("docs/", "../", "/")) and (ROOT / path).exists():
            page, anchor = _source_uri(path), ""
        else:
            return found[0]
        return f"]({posixpath.relpath(page, posixpath.dirname(uri) or '.')}{anchor})"

    def titled(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, found["target"]))
        page = files.get_file_from_path(path.removeprefix("docs/"))
        return f"[{_title(page)}]({found['target']}" if page and path.startswith("docs/") else found[0]

    return _outside_code(markdown, lambda part: LINK.sub(target, FILE_NAME.sub(titled, part)))


def _page_of_section(anchor: str, files: Files) -> tuple[str, str]:
    """Return the page that includes a section of README, and the anchor there; without one, the home page."""
    for file in files.documentation_pages():
        headings = ""
        for line in file.content_string.splitlines():
            heading = re.match(r"#+ (.+)", line)
            headings = f"#{_anchor_of(heading[1])}" if heading else headings
            found = INCLUDE.match(line)
            if found and found["anchor"] == anchor:
                return file.src_uri, headings
    return "index.md", ""


def _source_uri(path: str) -> str:
    return f"{SOURCES}/{path}.md"


def _source_page(path: Path) -> str:
    """Return a page with the content of a file, or with the names in a folder."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        names = sorted(child.name for child in path.iterdir() if not child.name.startswith(("_", ".")))
        return f"# {name}\n\n" + "\n".join(f"- `{child}`" for child in names) + "\n"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        folder = posixpath.dirname(name)
        return _moved(text, posixpath.relpath(folder or ".", posixpath.join("docs", SOURCES, folder)))
    language = LANGUAGES.get(
        PurePosixPath(name).suffix, "dockerfile" if path.name == "Dockerfile" else "text"
    )
    return f"# {name}\n\n```{language}\n{text.rstrip()}\n```\n"
