"""The credentials of a link: minted once, kept in a folder of their own, part of no store, lock, receipt or log.

    $XDG_DATA_HOME/hyb/credentials/link/<name>/    0700; `HYB_CREDENTIALS` moves `credentials/` elsewhere
      ca.pem                                       0600, as all; private key and certificate in one file
      server-<namespace>.pem  client-<site>.pem
      ca-next.pem  ca-old.pem                      while the CA is being changed: the new one, or the old certificate
      state.json                                   lifetimes, and which sites were revoked

Key and certificate share a file, so that one rename publishes both: killed at any byte, each file is whole or absent,
and the next call makes what is missing. A lock keeps two processes from minting twice. The CA's key stays here, behind
a passphrase if one is given; only its certificate goes to the two sides. The one exception is asked for by name: where
Skupper's own controller is to sign (`issuer`), it gets the key.

    order.py    what is wanted, and what one gets        settle.py     certificates made where they are missing
    kept.py     the files                                passphrase.py the CA's passphrase, and a CA that one brings
    mint.py     `hyb link`                               rotate.py     `hyb link renew`
    revoke.py   `hyb link revoke`                        survey.py     `hyb link list`
"""

from __future__ import annotations

from hyb.certificates import WARN
from hyb.credentials.kept import link_folder
from hyb.credentials.mint import mint
from hyb.credentials.order import CA_DAYS, DAYS, Credentials, Order
from hyb.credentials.passphrase import change_passphrase, read_authority, read_passphrase
from hyb.credentials.revoke import readmit, revoke
from hyb.credentials.rotate import Change, renew
from hyb.credentials.survey import Surveyed, known, survey

__all__ = [
    "CA_DAYS",
    "DAYS",
    "WARN",
    "Change",
    "Credentials",
    "Order",
    "Surveyed",
    "change_passphrase",
    "known",
    "link_folder",
    "mint",
    "read_authority",
    "read_passphrase",
    "readmit",
    "renew",
    "revoke",
    "survey",
]
