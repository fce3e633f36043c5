"""A read-only mirror of the store for the rest of a lab: a Hugging Face hub, an OCI registry and a Python index.

    http       HTTP/1.1 on httptools: limits, time, files by the kernel's sendfile
    answers    a request, an answer, ranges; pure
    catalog    what of the store is shown, and under which names
    hub, registry, simple    the three protocols: (catalog, request) → answer
    wheels     what a package index says of a wheel
    server     the process: who may read, which protocol is meant, its port and its end

No path of a request ever becomes a path of the disk: a request is looked up in the catalog, which knows digests.

Why own code: pypiserver and simpleindex serve one of the three; the CNCF's distribution and zot are Go programs that no
package of Python brings (distribution reads no OCI layout); olah is a proxy of the real hub with a cache of its own.
Each would want its own copy of the same bytes.
"""
