"""The process that draws SVGs for `svg.py`, run as a script. It may die of a hostile file: nothing else is in it.

Asked: a line of JSON {"size": bytes, "width": pixels, "options": {...}}, then the SVG. Answers: a line {"size": bytes},
then a PNG; or a line {"error": text}. Drawing may take `SECONDS` of time and `MEMORY` bytes.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from xml.etree import ElementTree

SECONDS = 20
MEMORY = 2 * 2**30


def main() -> None:
    """Answer until the pipe is closed."""
    import resvg_py

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; a closed pipe ends this process
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    asked, answer = sys.stdin.buffer, sys.stdout.buffer
    while line := asked.readline():
        request = json.loads(line)
        data = asked.read(request["size"])
        signal.alarm(SECONDS)  # its default action ends the process, wherever it is
        try:
            svg = without_files(data.decode("utf-8", "replace"))
            png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=request["width"], **request["options"]))
            head: dict[str, object] = {"size": len(png)}
        except BaseException as error:  # a panic of the library is no Exception
            png, head = b"", {"error": str(error)}
        signal.alarm(0)
        answer.write(json.dumps(head).encode() + b"\n" + png)
        answer.flush()


def without_files(svg: str) -> str:
    """The SVG without references to pictures outside of itself, which would be read from this machine's disk.

    Raises:
        ElementTree.ParseError: it is no XML.
    """
    if not re.search("image|<!ENTITY", svg, re.IGNORECASE):
        return svg
    root = ElementTree.fromstring(svg)
    found = False
    for element in root.iter():
        for name in [n for n in element.attrib if n.rpartition("}")[2] == "href"]:
            if not element.attrib[name].strip().startswith(("#", "data:")):
                del element.attrib[name]
                found = True
    return ElementTree.tostring(root, encoding="unicode") if found else svg


if __name__ == "__main__":
    main()
