"""What every container gets from this process's environment: how to reach the network, and whom to trust there."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.errors import VirtrootError

_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_CA_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

#: Every variable that is read here.
NAMES = (*_PROXIES, *_CA_BUNDLES)

#: Where Debian and Arch look for the CA bundle.
CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def proxies() -> dict[str, str]:
    """Return the proxy variables of this process: what runs in a container needs them as much."""
    return {name: os.environ[name] for name in _PROXIES if os.environ.get(name)}


def files() -> dict[str, bytes]:
    """Return the files for a container, path to content: the CA bundle that the environment names, if any.

    An intercepting proxy has a CA of its own.
    """
    for name in _CA_BUNDLES:
        path = Path(os.environ.get(name) or "/nonexistent")
        if path.is_file():
            try:
                return {CA_BUNDLE: path.read_bytes()}
            except OSError as error:
                raise VirtrootError(
                    f"cannot read {path}, which {name} names: {error.strerror}", f"mend it, or unset {name}"
                ) from error
    return {}
