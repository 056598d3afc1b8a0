"""An extension of Griffe: the references in our docstrings (``:class:`~lightning_noisy.NoiseLayer```) become links."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth):`(?:([^`<]+?)\s+<([^`>]+)>|([^`<]+))`")


class References(griffe.Extension):
    """What has a page is linked to; everything else is shown as code."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each object that was read."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(_link, obj.docstring.value)


def _link(found: re.Match) -> str:
    path = (found[2] or found[3]).removeprefix("~")
    is_short = found[2] is None and found[3].startswith("~")
    text = found[1] or (path.rpartition(".")[2] if is_short else path)
    return f'<autoref identifier="{path}" optional><code>{text}</code></autoref>'
