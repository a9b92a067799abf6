"""The docs site (`mkdocs.yml`): checks of its pages, and what mkdocs needs to know of this clone."""
