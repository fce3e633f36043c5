"""Pure text: typed facts in, documents out (Quadlet, Kubernetes, Skupper). Nothing here asks the host anything."""
