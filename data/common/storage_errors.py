"""What storage errors mean: whether a retry may succeed, and what users should do.

They come from fsspec's file systems: from Python, aiohttp, botocore, gcsfs and hdfs-native.
"""

from __future__ import annotations

import errno
from typing import Any

# Errors that a retry cannot fix; by name if the library may not be installed.
_FINAL = (FileExistsError, IsADirectoryError, NotADirectoryError)
_FINAL += (PermissionError, NotImplementedError, ValueError, TypeError, ImportError)
_FINAL_NAMES = {"NoCredentialsError", "PartialCredentialsError", "ParamValidationError"}
_FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk of this machine
_AGAIN = (408, 425, 429)  # the HTTP status codes 4xx to retry
_DENIED = (401, 403)
_DAMAGED_ON_THE_WAY = {"BadDigest", "IncompleteBody", "RequestTimeout"}  # S3's, with status 400
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
_DENIED_BY_HADOOP = ("AccessControlException",)
_FINAL_OF_HADOOP = (*_DENIED_BY_HADOOP, "QuotaExceededException", "InvalidArgument(")
_JAVA_STACK, _JAVA_LINE = r"\n\tat ", r"\n"  # as in the messages of hdfs-native


def actual(error: Exception) -> Exception:
    """The error, or its cause if fsspec hides that behind "file not found" (at https://)."""
    cause = error.__cause__
    of_http = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
    hides = isinstance(error, FileNotFoundError) and of_http
    return cause if hides and getattr(cause, "status", 0) != 404 else error


def is_final(error: Exception) -> bool:
    """Whether a retry would fail in the same way."""
    if isinstance(error, _FINAL) or type(error).__name__ in _FINAL_NAMES:
        return True
    if getattr(error, "errno", None) in _FULL or _UNTRUSTED in str(error):
        return True
    if _is_of_hadoop(error, _FINAL_OF_HADOOP):
        return True
    code = _response(error).get("Error", {}).get("Code")
    number = status(error)
    return 400 <= number < 500 and number not in _AGAIN and code not in _DAMAGED_ON_THE_WAY


def reason(error: Exception, protocol: str) -> str:
    """What happened and, if users can do something about it, the remedy; one line."""
    text = f"{type(error).__name__}: {error}".partition(_JAVA_STACK)[0]
    text = " ".join(text.replace(_JAVA_LINE, " ").split())
    denied = isinstance(error, PermissionError) or _is_of_hadoop(error, _DENIED_BY_HADOOP)
    if denied or "Credentials" in text or status(error) in _DENIED:
        return f"access denied ({text}); check the credentials and the permissions"
    if _UNTRUSTED in text:
        variable = "AWS_CA_BUNDLE" if protocol in ("s3", "s3a") else "SSL_CERT_FILE"
        return f"{text}; set {variable} to the file of its authority's certificate"
    return text


def status(error: Exception) -> int:
    """The HTTP status code of an error; 0: none."""
    number = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    for name in ("status", "code"):  # of aiohttp's and of gcsfs' errors
        number = number or getattr(error, name, 0)
    return int(number) if str(number).isdecimal() else 0


def _response(error: Exception) -> dict[str, Any]:
    """S3's response, if s3fs has wrapped botocore's error in its own."""
    response = getattr(error.__cause__, "response", None)
    return response if isinstance(response, dict) else {}


def _is_of_hadoop(error: Exception, names: tuple[str, ...]) -> bool:
    """Whether it is one of these Hadoop errors, which hdfs-native reports as text."""
    return isinstance(error, RuntimeError) and any(name in str(error) for name in names)
