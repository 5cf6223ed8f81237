"""Checks proxies and CA bundles from the environment before the first request."""

from __future__ import annotations

import os
import ssl
from urllib.request import getproxies

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import prepend_scheme_if_needed

from data.common.errors import UserError

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def ca_bundle() -> str | bool:
    """The file or folder of trusted certificates that the environment names; True if it does not.

    Raises:
        UserError: it is missing, or holds no certificates.
    """
    name = next((name for name in CA_VARIABLES if os.environ.get(name)), None)
    if name is None:
        return True
    path = os.environ[name]
    is_folder = os.path.isdir(path)
    try:
        ssl.create_default_context(**{"capath" if is_folder else "cafile": path})
    except OSError as error:
        reason = "no certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise UserError(f"{name}={path}: {reason}; correct it or unset it") from None
    return path


def proxies() -> dict[str, str]:
    """The proxies that the environment names, by scheme.

    Raises:
        UserError: an address of a proxy is malformed, or takes a package that is missing.
    """
    found = getproxies()
    for scheme in found.keys() & {"http", "https", "all"}:
        name = next((n for n in os.environ if n.lower() == f"{scheme}_proxy"), scheme)
        try:
            address = prepend_scheme_if_needed(found[scheme], "http")
            if not urllib3.util.parse_url(address).host:
                raise ValueError
            HTTPAdapter().proxy_manager_for(address)
        except requests.exceptions.InvalidSchema:  # of SOCKS
            raise UserError(
                f"{name}: a SOCKS proxy needs PySocks: pip install pysocks, or unset it"
            ) from None
        except Exception:  # from corners of the libraries; the address may hold a password
            raise UserError(
                f"{name} is not the address of a proxy, such as http://host:3128;"
                " correct it or unset it"
            ) from None
    return found
