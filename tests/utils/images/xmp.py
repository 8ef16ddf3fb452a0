"""What a picture's file says in XMP, read as others do: by Pillow, and a parser of XML."""

import io
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

NAMESPACES = {
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
}
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


def packet(file: Path | str | bytes) -> bytes | None:
    """Return the XMP of a file, or of its content; None where it has none."""
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        found = image.info.get("XML:com.adobe.xmp", image.info.get("xmp"))
    return found.encode() if isinstance(found, str) else found


def properties(xmp: bytes) -> dict[str, str]:
    """Parse XMP of one description of simple texts, by their usual names."""
    root = ElementTree.fromstring(xmp)
    assert root.tag == "{adobe:ns:meta/}xmpmeta"
    [rdf] = root
    [description] = rdf
    assert (rdf.tag, description.tag) == (f"{RDF}RDF", f"{RDF}Description")
    assert description.attrib == {f"{RDF}about": ""}
    found = {}
    for element in description:
        namespace, _, name = element.tag[1:].partition("}")
        found[f"{NAMESPACES[namespace]}:{name}"] = element.text
    assert len(found) == len(description)
    return found
