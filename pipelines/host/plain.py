"""placeholder until merge."""


def text(raw: str) -> str:
    return raw
