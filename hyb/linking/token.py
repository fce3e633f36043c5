"""A token of the cluster, or the Link that it stands for, as a file that somebody brings: read and judged. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyb import certificates
from hyb.errors import Exit, HybError
from hyb.linking.reading import load
from hyb.render import names
from hyb.render.skupper import check as skupper_check
from hyb.render.skupper import documents as sk
from hyb.render.skupper.fields import GROUP, NEWER, as_map, field_mistakes, name_of, of, spec_of
from hyb.render.skupper.kinds import kind_mistakes, token_mistakes

SIZE_MAX = 1 << 20
"""Bytes; a token has about two thousand."""
MINUTES = 15
"""How long a token is good unless the grant says otherwise."""


@dataclass(frozen=True)
class Token:
    """An AccessToken. Who has it may join once; what it is exchanged for is called `name`."""

    name: str
    url: str
    code: str = field(repr=False)
    ca: str
    cost: int = 1

    def document(self, namespace: str, cost: int) -> dict[str, Any]:
        """As a controller takes it."""
        spec = {"url": self.url, "code": self.code, "ca": self.ca, "linkCost": cost}
        return sk.token(self.name, namespace, spec)


@dataclass(frozen=True)
class LinkGiven:
    """Links and the Secret with their certificate, as a grant server or `skupper link generate` gives them."""

    secret: str
    data: Mapping[str, bytes] = field(repr=False)
    links: tuple[tuple[str, tuple[dict[str, str], ...]], ...]
    """Name and endpoints of each."""

    def documents(self, namespace: str, cost: int) -> list[dict[str, Any]]:
        """As a private site takes them: only what is needed of what came."""
        links = [sk.link(name, namespace, self.secret, cost, [dict(e) for e in ends]) for name, ends in self.links]
        return [*links, sk.secret(self.secret, namespace, self.data)]


def read(data: bytes, shown: str) -> Token | LinkGiven:
    """What a file holds. Raises HybError (exit 4) with all that is wrong; no message holds a secret."""
    if len(data) > SIZE_MAX:
        raise HybError(f"`{shown}` has {len(data)} bytes: that is no token", code=Exit.CHECK)
    documents, fault = load(data)
    if fault or not documents:
        raise HybError(f"`{shown}` {fault or 'is empty'}", hint="take the token out again; see `hyb link grant`",
                       code=Exit.CHECK)  # fmt: skip
    tokens = of(documents, "AccessToken")
    if len(tokens) == 1 and len(documents) == 1:
        return _token(tokens[0], shown)
    if of(documents, "Link") and len(of(documents, "Secret")) == 1 and not tokens:
        return read_link(documents, shown)
    hint = "one AccessToken is wanted (see `hyb link grant`), or what `skupper link generate` prints"
    raise HybError(f"`{shown}` holds {_what(documents)}", hint=hint, code=Exit.CHECK)


def _what(documents: Sequence[Any]) -> str:
    """What is there instead of a token, in words."""
    found = [d for d in documents if isinstance(d, Mapping)]
    if of(found, "AccessGrant"):
        return "an AccessGrant, which stays in the cluster: its token must be taken out of its status"
    if any(f"{GROUP}/type" in as_map(as_map(d.get("metadata")).get("labels")) for d in of(found, "Secret")):
        return "a token of Skupper 1, which Skupper 2 can't use"
    kinds = [str(d.get("kind") or "nothing with a kind") for d in found]
    return f"no token but {', '.join(f'`{k}`' for k in kinds[:5])}" if kinds else "no document"


def _token(document: Mapping[str, Any], shown: str) -> Token:
    spec = spec_of(document)
    found = [*_identity(document), *field_mistakes("AccessToken", spec), *token_mistakes(spec)]
    if as_map(document.get("status")).get("redeemed") is True:
        found.append("it has been redeemed, and is good once")
    if not found and (fault := _not_pem(str(spec["ca"]).encode())):
        found.append(f"spec.ca {fault}")
    if found:
        raise HybError(f"the token in `{shown}` would not work", details=found, code=Exit.CHECK,
                       hint="take it out again; see `hyb link grant`")  # fmt: skip
    return Token(name_of(document), spec["url"], spec["code"], spec["ca"], spec.get("linkCost", 1))


def _identity(document: Mapping[str, Any]) -> Iterator[str]:
    if document.get("apiVersion") != sk.API:
        newer = f" ({NEWER})" if str(document.get("apiVersion")).startswith(f"{GROUP}/") else ""
        yield f"apiVersion is `{document.get('apiVersion')}`, not `{sk.API}`{newer}"
    if problem := names.label_problem(name_of(document)):
        yield f"metadata.name {problem}"


def _not_pem(data: bytes) -> str:
    try:
        certificates.load(data)
    except ValueError:
        return "is no certificate in PEM"
    return ""


def read_link(documents: Sequence[Any], shown: str) -> LinkGiven:
    """Links and their Secret among documents that came from elsewhere. Raises HybError (exit 4)."""
    links, secrets = of(documents, "Link"), of(documents, "Secret")
    found = [f"{len(secrets)} Secrets, there must be one"] if len(secrets) != 1 else []
    for link in links:
        spec = {k: v for k, v in spec_of(link).items() if k != "cost" or v}
        texts = [*_identity(link), *field_mistakes("Link", spec)]
        texts += kind_mistakes("Link", spec, public=False, kubernetes=False)
        texts += [f"spec.tlsCredentials names `{spec.get('tlsCredentials')}`, which is not there"
                  for s in secrets[:1] if spec.get("tlsCredentials") != name_of(s)]  # fmt: skip
        found += [f"{skupper_check.title(link)}: {text}" for text in texts]
    if not links:
        found.append("no Link")
    data: dict[str, bytes] = {}
    for secret in secrets[:1]:
        if problem := names.label_problem(name_of(secret)):
            found.append(f"Secret: metadata.name {problem}")
        data, texts = _tls(secret)
        found += [f"{skupper_check.title(secret)}: {text}" for text in texts]
    if found:
        raise HybError(f"the Link in `{shown}` would not work", details=found, code=Exit.CHECK)
    ends = tuple((name_of(link), tuple(map(_endpoint, spec_of(link)["endpoints"]))) for link in links)
    return LinkGiven(name_of(secrets[0]), data, ends)


def _endpoint(given: Mapping[str, str]) -> dict[str, str]:
    return {key: given[key] for key in ("name", "host", "port", "group") if given.get(key)}


def _tls(secret: Mapping[str, Any]) -> tuple[dict[str, bytes], list[str]]:
    """The data of a Secret with a client's certificate, and what is wrong with it."""
    try:
        data = {k: base64.b64decode(as_map(secret.get("data"))[k], validate=True) for k in skupper_check.KEYS}
    except KeyError as error:
        return {}, [f"data[{error.args[0]}] is missing"]
    except (TypeError, ValueError, binascii.Error):
        return {}, ["its data is not base64"]
    if faults := [f"{k} {fault}" for k in ("ca.crt", "tls.crt") if (fault := _not_pem(data[k]))]:
        return data, faults
    try:
        fit = certificates.matches(certificates.Pair(data["tls.crt"], data["tls.key"]))
    except ValueError as error:
        return data, [f"tls.key {error}"]
    found = [] if fit else ["tls.key is not the key of tls.crt"]
    if not certificates.issued_by(certificates.load(data["tls.crt"]), certificates.load(data["ca.crt"])):
        found.append("its ca.crt did not sign its tls.crt")
    return data, found
