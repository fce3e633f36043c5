"""Whether something that is to leave the private host holds what must not: `hyb boundary check`.

    targets     what is looked for: the store's files by digest, rows of data, credentials, canaries
    streams     decompression, bounded against bombs
    watch       looks at one stream of bytes, in windows, for all of it at once
    walk        files, folders, and archives within archives, each content a stream
    documents   Kubernetes documents: what may stand in a Secret may stand nowhere else
    signed      which adapters bear a signature by a trusted key
    check       all of it together
    recorded    what recipes said, for `hyb push`

It reads and reports; it changes nothing, unpacks nothing to disk, and holds a few megabytes whatever the sizes are.
What can't be looked into (a damaged archive, a bomb, an encrypted member) is reported like a violation: a check that
did not see everything must not say yes. Keys are compared and never shown.
"""
