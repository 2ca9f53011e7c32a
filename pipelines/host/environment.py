"""The environment variables and files that every container gets from this process: proxies and CA bundle."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.errors import VirtrootError

_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_CA_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

#: All variables that this module reads.
NAMES = (*_PROXIES, *_CA_BUNDLES)

#: The path of the CA bundle on Debian and Arch.
CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def get_proxies() -> dict[str, str]:
    """Return the proxy variables of this process, since programs in a container need them, too."""
    return {name: os.environ[name] for name in _PROXIES if os.environ.get(name)}


def get_files() -> dict[str, bytes]:
    """Return the files for a container, path to content: the CA bundle of the environment, if any.

    It is needed behind an intercepting proxy, which has its own CA. Raises VirtrootError if it cannot be read.
    """
    for name in _CA_BUNDLES:
        path = Path(os.environ.get(name) or "/nonexistent")
        if path.is_file():
            try:
                return {CA_BUNDLE: path.read_bytes()}
            except OSError as error:
                raise VirtrootError(
                    f"cannot read {path} from {name}: {error.strerror}", f"fix the path, or unset {name}"
                ) from error
    return {}
