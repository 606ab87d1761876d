"""Credentials are kept out of what is recorded and printed; addresses that would leak them are refused."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

# What no address holds as it is.
UNWRITTEN = re.compile(r"[\s'\"\x00-\x1f\x7f-\x9f]")
# A setting's number of tokens is no secret, nor is the tokenizer's name.
SECRET_NAME = (
    r"password|passwd|passphrase|pwd|secret|api[_-]?key|access[_-]?key|(?:\b|(?<=%26)|(?<=%3F))sig(?:nature)?(?![\w.-])"
    r"|token(?!izer|s[ \t]{0,4}=[ \t]{0,4}[0-9][0-9_.e+]{0,20}+(?:[&\s,;)\]}'\"]|$))"
)
# The quoted part of a value is taken whole. The possessive quantifier never goes back, so the time is linear.
SECRET = re.compile(
    rf"(?i)(?P<name>(?:{SECRET_NAME})[\w.-]{{0,64}}+[\"']?[ \t]{{0,4}}(?:=|%3D)[ \t]{{0,4}})"
    r"(?P<value>(?:(?P<quote>\\{0,4}[\"'])[^\n]{0,1024}?(?P=quote))?[^&\s]*)"
)


def address_fault(uri: str) -> str | None:
    """Why a tracking address is none, without its parts: a library that misreads it prints what it took for a port."""
    scheme, found, rest = uri.partition("://")
    kind = uri.strip().partition(":")[0].lower()
    if kind in ("http", "https"):
        fault = "whitespace, quotes or control characters in it" if UNWRITTEN.search(uri) else _web_address_fault(uri)
    elif found and not scheme.lower().startswith(("sqlite", "file")) and UNWRITTEN.search(rest.rpartition("@")[0]):
        fault = "whitespace, quotes or control characters in its user or password"
    else:
        return None
    return fault and f"{fault}; in a password such characters are percent-encoded (%23 for #, %2F for /, %3F for ?)"


def _web_address_fault(uri: str) -> str | None:
    try:
        parts = urlsplit(uri)
        if any("@" in part for part in (parts.path, parts.query, parts.fragment)):
            return "an '@' outside its host part"
        if "#" in uri:
            return "a fragment ('#') in it"
        if not parts.hostname:
            return "no host in it"
        try:
            _ = parts.port
        except ValueError:
            return "its port is no number from 0 to 65535"
    except ValueError:
        return "its host part cannot be read"
    return None


def redact(text: str) -> str:
    """`text` without the credentials that URIs and settings in it may carry, in time that is linear in its length."""
    return re.sub(r"\S+", _without_userinfo, SECRET.sub(_without_value, text))


def _without_value(found: re.Match[str]) -> str:
    # An '@' in it may be the one that ends a password: what is before it must still be seen to be one.
    return f"{found['name']}***{'@***' if '@' in found['value'] else ''}"


def _without_userinfo(word: re.Match[str]) -> str:
    """A password may hold quotes and more: everything up to the last '@' is taken for one."""
    scheme, _, rest = word[0].partition("://")
    _, at, host = rest.rpartition("@")
    return f"{scheme}://***@{host}" if at else word[0]


def cause(error: Exception) -> str:
    """What went wrong, in one line: MLflow wraps "connection refused" in four layers of class names."""
    text = redact(str(error)) or type(error).__name__
    if system := re.search(r"\[Errno -?\d+\] ([\w ,]+)", text):
        return system.group(1) + (f" ({error.filename})" if isinstance(error, OSError) and error.filename else "")
    if database := re.search(r"\([A-Za-z0-9_]+\.[\w.]*Error\) ([^\n]{1,240})", text):
        return database.group(1)
    if "timeout" in text.lower():
        return "no answer in time"
    if wrapped := re.search(r"Caused by \w{1,60}\(['\"]([^'\"]{1,120})", text):
        return wrapped.group(1).rstrip(".")
    return text.splitlines()[0][:240]
