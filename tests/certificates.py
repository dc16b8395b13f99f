"""Real certificates for tests, made by openssl: an authority, and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """An authority whose certificate is the file `path`."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.path = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        self._run(
            "req -x509 -nodes -days 2 -addext",
            "keyUsage=critical,keyCertSign,cRLSign",  # Python 3.13 and later want it
            *("-subj", f"/CN={name}", "-out", str(self.path), "-keyout", str(self._key)),
        )

    def sign(self, name: str, file: str = "") -> tuple[Path, Path]:
        """A certificate for a user or a host, and its key; replaces what is in these files."""
        certificate, key = self._folder / f"{file or name}.crt", self._folder / f"{file or name}.key"
        self._run(
            "req -x509 -nodes -days 2 -addext",
            f"subjectAltName=DNS:{name},IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            *("-subj", f"/CN={name}", "-CA", str(self.path), "-CAkey", str(self._key)),
            *("-out", f"{certificate}.new", "-keyout", f"{key}.new"),
        )
        for path in (key, certificate):
            Path(f"{path}.new").replace(path)
        return certificate, key

    def _run(self, options: str, *more: str) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("openssl makes the certificates, and is not on this machine")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        command = [openssl, *options.split(), *more, *curve]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
