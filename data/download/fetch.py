"""Fetches one image over HTTP, with limits on time, size and redirects.

All threads share one connection pool; each thread has its own session.
Addresses are not restricted, because mirrors on private networks are common: download an untrusted
list on a machine that cannot reach any private network.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import prepend_scheme_if_needed

from data.common.errors import UserError

USER_AGENT = "Mozilla/5.0 (compatible; ml-images-download)"
OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex")  # the same as img2dataset's
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")

_ROBOTS_VALUES = {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}
_CHUNK_BYTES = 1 << 16
_POOLED_HOSTS = 64
LARGE_BYTES, LARGE_AT_ONCE = 2 << 20, 4
"""At most LARGE_AT_ONCE bodies of more than LARGE_BYTES are in memory at the same time, because
bodies of `max_bytes` in every thread would take gigabytes."""
_MAX_INTERIM = 10  # 1xx responses before the final one

_RETRIED_STATUSES = {408, 425, 429}  # and all of 5xx
_CUT_OFF = (urllib3.exceptions.IncompleteRead, urllib3.exceptions.InvalidChunkLength)
# Faults of this machine: its network, its name server, or too few files, ports or memory.
_OFFLINE_ERRNOS = {
    *(socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_MEMORY, errno.ENETUNREACH, errno.ENETDOWN),
    *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL),
}
_TUNNEL = "Tunnel connection failed: "  # start of http.client's message about a proxy's response
_BAD_URL = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    urllib3.exceptions.LocationParseError,
    UnicodeError,
)


@dataclass(frozen=True)
class Limits:
    """Limits of one attempt at one URL.

    Attributes:
        connect_seconds: time to connect.
        read_seconds: time without any data.
        total_seconds: time for everything, including redirects.
        max_bytes: size of the body.
        max_redirects: number of redirects to follow.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 20.0
    total_seconds: float = 120.0
    max_bytes: int = 64 << 20
    max_redirects: int = 5


class _FinalResponse(http.client.HTTPResponse):
    """Skips all interim (1xx) responses, such as 103 Early Hints; Python skips only 100."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MAX_INTERIM):
            version, status, reason = super()._read_status()
            if not 100 < status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"more than {_MAX_INTERIM} interim responses")


urllib3.connection.HTTPConnection.response_class = _FinalResponse


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """The target of a redirect; None if the response is not one."""
        try:
            return super().get_redirect_target(resp)
        except UnicodeDecodeError:  # raw Latin-1, which requests tries to decode as UTF-8
            location = resp.headers["location"]
            return "".join(c if c.isascii() else f"%{ord(c):02X}" for c in location)


class FetchError(Exception):
    """A failed attempt; it is counted as a result, so it is not a UserError.

    Attributes:
        kind: the reason in one word: `http_404` (any status), `time_out`, `connection` (lost),
            `unreachable` (no connection), `offline` (our own network, resolver or proxy fails),
            `tls`, `truncated`, `corrupt`, `too_large`, `redirects`, `bad_url`, `opted_out`.
        is_transient: whether another attempt may succeed.
        retry_after: seconds that the server asks us to wait; None if it does not ask.
        is_throttled: whether the server says that we send too many requests.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        is_transient: bool = False,
        retry_after: float | None = None,
        is_throttled: bool = False,
    ) -> None:
        super().__init__(kind, message, is_transient, retry_after, is_throttled)  # for pickle
        self.kind = kind
        self.is_transient = is_transient
        self.retry_after = retry_after
        self.is_throttled = is_throttled

    def __str__(self) -> str:
        return self.args[1]


class Fetcher:
    """Fetches bodies; one object serves all threads.

    Args:
        limits: limits of each attempt.
        threads: number of threads that call `fetch` at the same time.
        user_agent: the User-Agent of every request; some hosts refuse unknown programs.
        opt_outs: `X-Robots-Tag` directives; images sent with one of them are not downloaded.

    Raises:
        UserError: a proxy or CA bundle set in the environment cannot be used.
    """

    def __init__(
        self,
        limits: Limits,
        threads: int,
        user_agent: str = USER_AGENT,
        opt_outs: Collection[str] = OPT_OUTS,
    ) -> None:
        self._limits = limits
        self._headers = {
            "User-Agent": user_agent,
            "Accept": "image/*,*/*;q=0.5",
            "Accept-Encoding": "identity",  # images are already compressed
        }
        # With proxies in the environment, requests chooses one per URL; {} skips that search.
        self._options: dict = {} if proxies() else {"proxies": {}}
        self._options["verify"] = ca_bundle()
        self._opt_outs = opt_outs
        self._adapter = HTTPAdapter(_POOLED_HOSTS, pool_maxsize=threads)
        self._sessions = threading.local()
        self._large = threading.BoundedSemaphore(LARGE_AT_ONCE)

    def fetch(self, url: str) -> tuple[bytes, str]:
        """Fetches a body; returns it and the URL it came from after redirects.

        Raises:
            FetchError: the attempt failed, for any reason.
        """
        deadline = time.monotonic() + self._limits.total_seconds
        for _ in range(self._limits.max_redirects + 1):
            try:
                if urlsplit(url).scheme not in ("http", "https"):
                    raise FetchError("bad_url", "neither http nor https")
                with self._response(url) as response:
                    location = self._session().get_redirect_target(response)
                    if location is None:
                        _check_status(response)
                        self._check_robots(response)
                        return self._body(response, deadline), url
                url = urljoin(url, location)
            except FetchError:
                raise
            except Exception as error:  # libraries may raise anything on hostile responses
                raise _as_fetch_error(error) from error
        raise FetchError("redirects", f"more than {self._limits.max_redirects} redirects")

    def _response(self, url: str) -> requests.Response:
        """The response to one request, with its body not yet read."""
        request = requests.PreparedRequest()
        request.prepare("GET", url, headers=self._headers)
        # Not `Session.get`, which spends a quarter of its time merging settings and environment.
        return self._session().send(
            request,
            stream=True,
            allow_redirects=False,  # requests would read the entire bodies of redirects
            timeout=(self._limits.connect_seconds, self._limits.read_seconds),
            **self._options,
        )

    def _check_robots(self, response: requests.Response) -> None:
        for header in response.raw.headers.getlist("X-Robots-Tag"):
            found = robots_directives(header, self._headers["User-Agent"]) & set(self._opt_outs)
            if found:
                raise FetchError("opted_out", f"X-Robots-Tag: {min(found)}")

    def _session(self) -> requests.Session:
        session = getattr(self._sessions, "session", None)
        if session is None:
            session = self._sessions.session = _Session()
            session.mount("http://", self._adapter)
            session.mount("https://", self._adapter)
            # Keep no cookies: those of millions of hosts would fill the memory.
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        return session

    def _body(self, response: requests.Response, deadline: float) -> bytes:
        limit, length = self._limits.max_bytes, response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > limit:
            raise FetchError("too_large", f"{length} bytes announced; the limit is {limit}")
        late = FetchError("time_out", f"not complete after {self._limits.total_seconds:g} s", True)
        body = bytearray()
        with ExitStack() as stack:
            stack.callback(body.clear)  # an exception's traceback would keep it in memory
            # read1 returns after every packet, so the deadline ends even a very slow transfer.
            while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
                body += chunk
                if len(body) > limit:
                    raise FetchError("too_large", f"more than {limit} bytes")
                if len(body) - len(chunk) <= LARGE_BYTES < len(body):
                    if not self._large.acquire(timeout=max(0, deadline - time.monotonic())):
                        raise late
                    stack.callback(self._large.release)
                if time.monotonic() > deadline:
                    raise late
            return bytes(body)


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    if status == 407:
        raise FetchError("offline", "the proxy asks for a password", is_transient=True)
    retry_after = _seconds(response.headers.get("Retry-After"))
    raise FetchError(
        f"http_{status}",
        response.reason or "",
        is_transient=status in _RETRIED_STATUSES or status >= 500,
        retry_after=retry_after,
        is_throttled=status == 429 or (status == 503 and retry_after is not None),
    )


def _seconds(retry_after: str | None) -> float | None:
    """Seconds to wait by Retry-After, a number or a date (RFC 9110, 10.2.3); None if invalid."""
    if not retry_after:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _as_fetch_error(error: Exception) -> FetchError:
    """Converts an error of requests, urllib3 or the standard library to a FetchError."""
    causes = _causes(error)

    def is_any(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    message = " ".join(str(causes[-1]).split())[:200] or type(causes[-1]).__name__
    if is_any(*_BAD_URL) or (type(error) is ValueError and len(causes) == 1):  # from urlsplit
        return FetchError("bad_url", message)
    if is_any(requests.exceptions.ProxyError, urllib3.exceptions.ProxyError):
        is_host = message.startswith(_TUNNEL) and "407" not in message
        return FetchError("unreachable" if is_host else "offline", message, is_transient=True)
    if is_any(requests.exceptions.SSLError, urllib3.exceptions.SSLError):
        return FetchError("tls", message)
    if any(isinstance(c, OSError) and c.errno in _OFFLINE_ERRNOS for c in causes):
        return FetchError("offline", message, is_transient=True)
    if is_any(
        requests.exceptions.ConnectTimeout,
        urllib3.exceptions.NewConnectionError,
        urllib3.exceptions.ConnectTimeoutError,
    ):
        return FetchError("unreachable", message, is_transient=True)
    if is_any(requests.exceptions.Timeout, urllib3.exceptions.ReadTimeoutError, TimeoutError):
        return FetchError("time_out", message, is_transient=True)
    if is_any(*_CUT_OFF):
        return FetchError("truncated", message, is_transient=True)
    if is_any(requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError):
        return FetchError("corrupt", message)
    return FetchError("connection", message, is_transient=True)


def _causes(error: BaseException) -> list[BaseException]:
    """The error and all errors inside it, outermost first."""
    causes: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, BaseException) and item not in causes:
            causes.append(item)
            waiting += [*item.args, getattr(item, "reason", None), item.__cause__]
    return causes


def robots_directives(header: str, user_agent: str) -> set[str]:
    """The directives of an `X-Robots-Tag` header that apply to us, in lower case.

    `agent: directive, directive` applies only to that agent; `none` means noindex and nofollow.
    """
    found, is_for_us = set(), True
    for part in header.lower().split(","):
        name, colon, value = (text.strip() for text in part.partition(":"))
        if colon and name not in _ROBOTS_VALUES:
            is_for_us = bool(name) and name in user_agent.lower()
        directive = value if colon else name
        if is_for_us:
            found |= {"noindex", "nofollow"} if directive == "none" else {directive}
    return found


def ca_bundle() -> str | bool:
    """The file or folder of trusted certificates named by the first of CA_VARIABLES that is set.

    Returns:
        its path, or True (requests' own certificates) if none is set.

    Raises:
        UserError: it is missing or holds no certificates.
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
    """The proxies set in the environment, by scheme.

    Raises:
        UserError: a proxy's address is malformed, or needs a package that is not installed.
    """
    found = getproxies()
    for scheme in found.keys() & {"http", "https", "all"}:
        name = next((n for n in os.environ if n.lower() == f"{scheme}_proxy"), scheme)
        try:
            address = prepend_scheme_if_needed(found[scheme], "http")
            if not urllib3.util.parse_url(address).host:
                raise ValueError
            HTTPAdapter().proxy_manager_for(address)
        except requests.exceptions.InvalidSchema:  # SOCKS without its package
            raise UserError(
                f"{name}: a SOCKS proxy needs PySocks: pip install pysocks, or unset it"
            ) from None
        # Libraries may raise anything. The message omits the address, which may hold a password.
        except Exception:
            raise UserError(
                f"{name} is not the address of a proxy, such as http://host:3128;"
                " correct it or unset it"
            ) from None
    return found
