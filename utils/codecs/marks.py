"""Marks: XMP in the file of a picture that says, in the words of the IPTC, that a trained model made it."""

import re
from xml.sax.saxutils import escape

from PIL.PngImagePlugin import PngInfo

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""The IPTC's term for a given picture that a generative model changed."""
PNG_KEYWORD, _TIFF_TAG = "XML:com.adobe.xmp", 700
"""Where XMP lies (XMP specification, part 3): the iTXt chunk of this keyword, the field of this number."""
_NOT_IN_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold (section 2.2), and breaks of lines, which its readers may change."""
_PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about=""
 xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
{properties}
</rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def make_mark(program: str, model: str, version: str = "") -> bytes:
    """Write what marks a picture as made from a given one with a trained model: a packet of XMP.

    Nothing of it depends on the time, so that the same picture stays the same file.

    Args:
        program: What made it, with its version: xmp:CreatorTool.
        model: Name of its weights: AISystemUsed of the IPTC's standard of 2025.
        version: What tells these weights from others of the name, AISystemVersionUsed; empty for nothing.

    Returns:
        UTF-8. What XML cannot hold of the texts becomes U+FFFD.
    """
    said = {
        "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE,
        "xmp:CreatorTool": program,
        "Iptc4xmpExt:AISystemUsed": model,
        "Iptc4xmpExt:AISystemVersionUsed": version,
    }
    lines = [f"<{name}>{_escape(text)}</{name}>" for name, text in said.items() if text]
    return _PACKET.format(properties="\n".join(lines)).encode()


def mark_options(kind: str, mark: bytes) -> dict[str, object]:
    """Return with which options Pillow saves a picture so that its file holds a mark.

    Args:
        kind: Of the file, as Pillow calls it: PNG (also one that moves), JPEG, WEBP, AVIF or TIFF.
        mark: Of `make_mark`.

    Raises:
        ValueError: Files of another kind, which hold no XMP.
    """
    if kind == "PNG":
        info = PngInfo()
        info.add_itxt(PNG_KEYWORD, mark.decode())
        return {"pnginfo": info}
    if kind == "TIFF":
        return {"tiffinfo": {_TIFF_TAG: mark}}
    if kind in ("JPEG", "WEBP", "AVIF"):
        return {"xmp": mark}
    raise ValueError(f"a {kind} file cannot be marked; save as PNG, JPEG, WEBP, AVIF or TIFF")


def _escape(text: str) -> str:
    """Write a text for XML; without its quotes nothing in it reads as a property such as an orientation."""
    return escape(_NOT_IN_XML.sub("\ufffd", text), {'"': "&quot;", "'": "&apos;"})
