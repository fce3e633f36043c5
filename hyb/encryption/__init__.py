"""Images whose layers only some can read: OCI layers encrypted by the ocicrypt scheme, that Podman, skopeo and CRI-O
decrypt.

    keys      who may read (public keys, certificates) and with what (a private key in a file of its owner's alone)
    layers    clear layers → encrypted ones and back, both by skopeo: no cipher of hyb's own
    opened    a sealed image → a private store with its model and adapters, every file checked
    memory    where that store may lie: a folder on disk, or in memory alone, and how it goes away

The names here say `sealed` for what is encrypted to somebody. A seal hides; it does not say who made it: signatures do.
"""
