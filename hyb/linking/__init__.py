"""From the documents of a link to a link that works: its folder, its sites, its checks."""
