"""The docs site (`mkdocs.yml`): checks of its pages, and hooks for mkdocs."""
