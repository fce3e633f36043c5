"""Bundles: what a recipe needs, carried to where there is no network (docs/bundle.md).

    gather.py    recipe + lock + store → what goes in
    images.py    container images, by skopeo into the store
    wheels.py    Python wheels for the other side, by pip into the store
    write.py     the parts and the documents beside them; goes on where it was killed
    read.py      a bundle's document, signature and parts, believed in nothing
    load.py      a bundle into the store: bytes first, names last

The format is in `hyb.formats.bundle`, which is pure.
"""
