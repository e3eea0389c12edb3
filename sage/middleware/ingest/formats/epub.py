"""Books (``.epub``): the chapters in their order, each read as HTML.

Source: EPUB 3.3 (https://www.w3.org/TR/epub-33/), *Package document*.
"""

from __future__ import annotations

import posixpath
from pathlib import Path
from urllib.parse import unquote

from sage.middleware.ingest.document import ParsedDocument, TextSection, Unreadable, one_line
from sage.middleware.ingest.formats.archives import open_archive
from sage.middleware.ingest.formats.html import parse_html

_CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
_OPF = "{http://www.idpf.org/2007/opf}"
_DC = "{http://purl.org/dc/elements/1.1/}"
_HTML = ("application/xhtml+xml", "text/html")
_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
"""How fonts are made unreadable, which is no encryption of the text."""


def parse_epub(path: Path) -> ParsedDocument:
    """Raises :class:`Unreadable` for a file that is encrypted (DRM), damaged or no book."""
    with open_archive(path, "book (.epub)") as archive:
        rights = "META-INF/encryption.xml"
        if rights in archive:
            methods = [
                element.get("Algorithm", "") for element in archive.xml(rights).iter() if "Algorithm" in element.attrib
            ]
            if any(not method.startswith(_FONTS) for method in methods):
                raise Unreadable("is encrypted (DRM): its text cannot be read")
        rootfile = archive.xml("META-INF/container.xml").find(f".//{_CONTAINER}rootfile")
        main = "" if rootfile is None else rootfile.get("full-path", "")
        package = archive.xml(main)
        items = {item.get("id"): item for item in package.iter(f"{_OPF}item")}
        chapters = [items[ref.get("idref")] for ref in package.iter(f"{_OPF}itemref") if ref.get("idref") in items]
        sections: list[TextSection] = []
        for chapter in chapters:
            name = posixpath.normpath(posixpath.join(posixpath.dirname(main), unquote(chapter.get("href", ""))))
            if chapter.get("media-type") in _HTML and name in archive:
                sections += parse_html(archive.read(name)).sections
        title, language = package.findtext(f".//{_DC}title"), package.findtext(f".//{_DC}language")
        metadata = {"lang": language.strip().lower()[:35]} if language and language.strip() else {}
        return ParsedDocument(sections, one_line(title) or None if title else None, metadata, markdown=True)
