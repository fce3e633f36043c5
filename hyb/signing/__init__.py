"""Signatures with a key pair, made and checked without a network: who vouches for these bytes.

    keys.py      key pairs: PEM files, EC P-256 or Ed25519
    dsse.py      a payload → a sigstore bundle v0.3 with a DSSE envelope, and back
    model.py     the statement of the OpenSSF model-signing format over a folder's files
    attached.py  signatures in the store: made, found, checked
    folder.py    a plain folder and the signature beside it
    policy.py    the trust policy: which names need which keys
    gate.py      the light way to the policy in force, if there is one
    cosign.py    signatures of images as cosign, skopeo and Podman read them

Only `cryptography` is needed: the side without a network has no sigstore tree.
"""
