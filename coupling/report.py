"""One self-contained HTML page of a run: its table and its figures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from coupling.files import write_atomically

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ line-height: 1.2; overflow-x: auto; }}
figure {{ margin: 2rem 0; }} img {{ max-width: 100%; }}
</style></head><body><h1>{title}</h1>{text}
{table}
{figures}
</body></html>
"""


def write_report(path: Path, title: str, text: str, table: Table, figures: Sequence[tuple[Path, str]]) -> None:
    """Write the page.

    Args:
        path: file to write.
        title: heading.
        text: one paragraph.
        table: as printed.
        figures: PNG files with their captions.
    """
    console = Console(record=True, file=io.StringIO(), width=100)
    console.print(table)
    shown = console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
    images = [
        f'<figure><img src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for file, caption in ((file, html.escape(caption)) for file, caption in figures)
    ]
    page = _PAGE.format(
        title=html.escape(title), text=f"<p>{html.escape(text)}</p>", table=shown, figures="\n".join(images)
    )
    write_atomically(path, page)
