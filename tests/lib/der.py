"""As much DER as tells one certificate from the next."""


def first(certificates):
    """The first of several that lie back to back."""
    size, head = certificates[1], 2
    if size & 0x80:
        head = 2 + (size & 0x7F)
        size = int.from_bytes(certificates[2:head], "big")
    return certificates[:head + size]
