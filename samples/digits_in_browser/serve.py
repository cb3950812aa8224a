"""Serves a page that learns the digits one draws: graphs of a cut net, trained in the browser."""

import argparse
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.device import WEB

PAGE = Path(__file__).parent
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


class Handler(SimpleHTTPRequestHandler):
    """Tells the types of modules, since a browser runs no others, and is silent."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
    }

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def write(out: Path, runtime: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for file in (PAGE / "index.html", PAGE / "drawings.js", *(runtime / "dist" / name for name in RUNTIME)):
        shutil.copy(file, out)
    shutil.copytree(WEB, out / "dni_fx", dirs_exist_ok=True)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    image, digit = torch.rand(4, 64), torch.arange(4)
    cut = dni_fx.decouple(net, (image,), plan="at:after=1+3", synthesizer="critic", interface="dni:guard=0")
    options = {"loss": F.cross_entropy, "rate": 3e-3, "labels_as_context": True}
    print(dni_fx.export_training(cut, out / "model", targets=digit, **options), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", type=Path, default=Path("node_modules/onnxruntime-web"))
    parser.add_argument("--out", type=Path, default=Path("digits-in-browser"))
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    if not (options.runtime / "dist").is_dir():
        parser.error(f"{options.runtime} is not there: npm install onnxruntime-web, or say --runtime FOLDER")
    write(options.out, options.runtime)
    with ThreadingHTTPServer(("127.0.0.1", options.port), partial(Handler, directory=options.out)) as server:
        print(f"draw at http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
