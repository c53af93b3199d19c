"""As much of the protobuf wire format as it takes to walk a message without its schema.

Source: protobuf wire format (varints, wire types).
"""

from collections.abc import Iterator

_VARINT, _BYTES = 0, 2
_SIZES = {1: 8, 5: 4}  # wire type -> bytes of a value of fixed width; groups are refused


def byte_fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of every field that holds bytes: a string, bytes or a message.

    Raises:
        ValueError, IndexError: the bytes are no protobuf message.
    """
    return ((field, value) for field, value in fields(content) if not isinstance(value, int))


def fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number of every field, and its integer or its bytes; those of fixed width are passed over.

    Raises:
        ValueError, IndexError: the bytes are no protobuf message.
    """
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            number, position = _varint(content, position)
            yield field, number
        elif kind in _SIZES:
            position += _SIZES[kind]
        elif kind == _BYTES:
            size, position = _varint(content, position)
            if position + size > len(content):
                raise ValueError(f"field {field} ends after the file")
            yield field, content[position : position + size]
            position += size
        else:
            raise ValueError(f"field {field} has wire type {kind}")


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
    raise ValueError("a number of more than ten bytes")
