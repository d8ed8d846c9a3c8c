"""Checks of web pages that need no browser."""

from html.parser import HTMLParser

VOID = {"meta", "img"}


class Structure(HTMLParser):
    """Checks that every element is closed, and that every picture and chart has a text for a screen reader; counts captions."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.captions = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.captions += tag == "caption"
        names = dict(attrs)
        if (tag == "img" and not names.get("alt")) or (tag == "svg" and not names.get("aria-label")):
            self.faults.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"/{tag}")
