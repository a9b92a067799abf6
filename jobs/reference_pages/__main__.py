"""Write the generated pages of docs/reference/."""

from jobs import reference_pages

if __name__ == "__main__":
    reference_pages.write()
    print("\n".join(reference_pages.PAGES))
