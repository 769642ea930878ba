"""What mkdocs calls while it builds the site: files of the repository become pages of it.

On GitHub a page of docs/ may link to `../configs/demo.yaml`. The site has a page for each such
file, so that every link works there too, without a network.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")
PLACE = "repository"  # the folder of these pages in the site
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside docs/ that a page links to, and a list of the decisions."""
    pages = [file.src_uri for file in files.documentation_pages()]
    # Pages that are found have links of their own.
    waiting, found = [f"docs/{page}" for page in pages], set[str]()
    while waiting:
        page = waiting.pop()
        for link in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
            target = _target(page, link)
            if not target.startswith("docs/") and (ROOT / target).is_file():
                if target not in found and target.endswith(".md"):
                    waiting.append(target)
                found.add(target)
    for target in sorted(found):
        files.append(File.generated(config, _place(target), content=_content(target)))
    decisions = sorted(page for page in pages if re.match(r"decisions/\d", page))
    content = "# Decisions\n\nChoices that somebody might question, each recorded once.\n\n"
    for page in decisions:
        title = (ROOT / "docs" / page).read_text(encoding="utf-8").partition("\n")[0]
        content += f"- [{title.removeprefix('# ')}]({PurePosixPath(page).name})\n"
    files.append(File.generated(config, "decisions/index.md", content=content))
    return files


def on_page_markdown(markdown: str, /, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with links to the pages of the site instead of files of the repository."""
    here = page.file.src_uri
    source = here.removeprefix(f"{PLACE}/") if here.startswith(PLACE) else f"docs/{here}"

    def there(link: re.Match[str]) -> str:
        target = _target(source, link[1])
        if here.startswith(PLACE) and target.startswith("docs/"):
            return relpath(target.removeprefix("docs/"), str(PurePosixPath(here).parent))
        if not target.startswith("docs/") and (ROOT / target).is_file():
            return relpath(_place(target), str(PurePosixPath(here).parent))
        return link[1]

    return LINK.sub(there, markdown)


def _target(page: str, link: str) -> str:
    """The path of a linked file in the repository."""
    return normpath(str(PurePosixPath(page).parent / link))


def _place(target: str) -> str:
    return f"{PLACE}/{target}" if target.endswith(".md") else f"{PLACE}/{target}.md"


def _content(target: str) -> str:
    text = (ROOT / target).read_text(encoding="utf-8")
    if target.endswith(".md"):
        return text
    language = LANGUAGES.get(PurePosixPath(target).suffix, "text")
    return f"# {target}\n\n~~~~{language}\n{text.rstrip()}\n~~~~\n"
