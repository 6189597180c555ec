"""Download the JavaScript libraries of the pages from npm, with their licences. Needs npm.

python scripts/vendor.py
"""

import gzip
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "emodistill"
# package -> version, npm's integrity of the tarball, and where each file of the tarball goes
PACKAGES = {
    "wavesurfer.js": (
        "8.0.1",
        "sha512-h0OnRWSVTqIYLSw3/IVrBtsun/xw9L5u4FA3bjfSDTFMX/xswVWS1JwK4fFu3ulmxRUSHg8zQORl6zENG983eg==",
        {
            "dist/wavesurfer.esm.js": "serving/page/vendor/wavesurfer.esm.js",
            "dist/plugins/minimap.esm.js": "serving/page/vendor/wavesurfer-minimap.esm.js",
            "dist/plugins/timeline.esm.js": "serving/page/vendor/wavesurfer-timeline.esm.js",
            "dist/plugins/zoom.esm.js": "serving/page/vendor/wavesurfer-zoom.esm.js",
            "LICENSE": "serving/page/vendor/wavesurfer-LICENSE",
        },
    ),
    "swagger-ui-dist": (
        "5.35.0",
        "sha512-U06rpMtW9V3XPGOBeamTUSr0Z09jMX4IJuANpE/EZbAhw0G8CgwrzU4YmXkn/h0wCDNsXdGarTNNHC3sU8yVUQ==",
        {
            "swagger-ui-bundle.js": "serving/docs_page/vendor/swagger-ui-bundle.js.gz",
            "swagger-ui.css": "serving/docs_page/vendor/swagger-ui.css.gz",
            "LICENSE": "serving/docs_page/vendor/swagger-ui-LICENSE",
            "NOTICE": "serving/docs_page/vendor/swagger-ui-NOTICE",
            "swagger-ui-bundle.js.LICENSE.txt": "serving/docs_page/vendor/swagger-ui-bundle-LICENSES",
        },
    ),
    "onnxruntime-web": (  # the tarball lacks its licence (MIT), which is in this repository
        "1.30.0",
        "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        {
            "dist/ort.wasm.bundle.min.mjs": "assets/web/vendor/ort.mjs",
            "dist/ort-wasm-simd-threaded.wasm": "assets/web/vendor/ort-wasm-simd-threaded.wasm.gz",
        },
    ),
}


def main() -> None:
    """Download, check and copy the files."""
    for package, (version, integrity, files) in PACKAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            output = subprocess.run(
                ["npm", "pack", "--json", f"{package}@{version}"],
                cwd=folder, capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            packed = json.loads(output)
            (entry,) = packed if isinstance(packed, list) else packed.values()
            if entry["integrity"] != integrity:
                raise SystemExit(f"{package}@{version} is {entry['integrity']}, expected {integrity}")
            with tarfile.open(Path(folder) / entry["filename"]) as archive:
                for name, target in files.items():
                    member = archive.extractfile(f"package/{name}")
                    assert member is not None
                    data = member.read()
                    if name.endswith(
                        ("js", ".css")
                    ):  # source maps are not shipped, so drop the links to them
                        data = b"".join(
                            line
                            for line in data.splitlines(keepends=True)
                            if not line.startswith((b"//# sourceMapping", b"/*# sourceMapping"))
                        )
                    if target.endswith(".gz"):
                        data = gzip.compress(data, mtime=0)
                    (ROOT / target).write_bytes(data)
        print(f"{package} {version}")


if __name__ == "__main__":
    main()
