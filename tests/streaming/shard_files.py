"""Shards to read in tests, and a server for them."""

import io
import json
import tarfile
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet

from ..photos import draw_image

NAMES = ("ant", "bee", "cat")


def picture(label: int, seed: int, side: int = 16) -> bytes:
    """A PNG whose colour and place tell its class."""
    file = io.BytesIO()
    draw_image(label, seed, side).save(file, "PNG")
    return file.getvalue()


def write_parquet(folder: Path, sizes, label=lambda number, kind: NAMES[kind], side=16, **columns) -> Path:
    """``folder/000.parquet`` and so on; a column is a function of an image's number and its class."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, rows in enumerate(_rows(sizes, side)):
        table = {
            "image": [{"bytes": data, "path": None} for _, _, data in rows],
            "label": [label(number, kind) for number, kind, _ in rows],
            **{name: [value(number, kind) for number, kind, _ in rows] for name, value in columns.items()},
            "name": [str(number) for number, _, _ in rows],
        }
        pyarrow.parquet.write_table(
            pa.table(table, schema=_schema(table)), folder / f"{shard:03}.parquet", row_group_size=4
        )
    return folder


def _rows(sizes, side=16):
    """For each shard its rows: an image's number, its class and its bytes."""
    number = 0
    for size in sizes:
        yield [(n, n % 3, picture(n % 3, n, side)) for n in range(number, number + size)]
        number += size


def _schema(table):
    if table["label"]:
        return None
    kinds = {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})}
    return pa.schema({name: kinds.get(name, pa.string()) for name in table})


def write_class_label_parquet(folder: Path, sizes, names=NAMES) -> Path:
    """Shards as ``push_to_hub`` writes them: an ``Image`` and a ``ClassLabel``."""
    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    for shard, rows in enumerate(_rows(sizes)):
        table = {
            "image": [{"bytes": data, "path": None} for _, _, data in rows],
            "label": [names.index(NAMES[kind]) for _, kind, _ in rows],
        }
        schema = features.arrow_schema
        pyarrow.parquet.write_table(pa.table(table, schema=schema), folder / f"{shard:03}.parquet")
    return folder


def write_tars(folder: Path, sizes, members=lambda number, kind: {"cls": str(kind)}, side=16) -> Path:
    """``folder/000.tar`` and so on, with ``sizes.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, rows in enumerate(_rows(sizes, side)):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as archive:
            for number, kind, data in rows:
                for suffix, content in {"png": data, **members(number, kind)}.items():
                    content = content if isinstance(content, bytes) else content.encode()
                    member = tarfile.TarInfo(f"photos/{number:05}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    sizes_of = {f"{shard:03}.tar": size for shard, size in enumerate(sizes)}
    (folder / "sizes.json").write_text(json.dumps(sizes_of), encoding="utf-8")
    return folder


class _Handler(SimpleHTTPRequestHandler):
    """Python's own, with the ranges that any real server of files knows."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, wanted = Path(self.translate_path(self.path)), self.headers.get("Range")
        self.server.asked.append(self.path)
        if not wanted or not path.is_file():
            super().do_GET()
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        data, size = path.read_bytes(), path.stat().st_size
        part = data[int(first) : int(last or size - 1) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{size}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def end_headers(self):
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *_):
        """Stays silent."""


@contextmanager
def served(folder: Path):
    """The URL of a server of the folder on this machine, and the list of paths that are asked of it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
