"""How many bytes an optimizer keeps for the matrices it learns, by its usual name. Imports no torch."""

# bitsandbytes pages only states of this many numbers or more (optim/optimizer.py, get_state_buffer).
PAGED_ELEMENTS = 100_000
# It keeps smaller states in 32 bits, whatever was asked for (the default of min_8bit_size).
_LEAST_8BIT = 4096
# One constant of 32 bits for so many 8-bit numbers (blockwise quantization).
_BLOCK = 256
_MOMENTS = {"adamw": 2, "lion": 1}


def state_bytes(optimizer: str, rows: int, columns: int) -> int:
    """Bytes of the state for a matrix of that size."""
    if optimizer == "sgd":
        return 0
    if optimizer == "adafactor":  # second moments by row and by column, no first ones
        return 4 * (rows + columns)
    numbers = rows * columns * next(count for family, count in _MOMENTS.items() if family in optimizer)
    if optimizer.endswith("8bit") and rows * columns >= _LEAST_8BIT:
        return numbers + 4 * numbers // _BLOCK
    return 4 * numbers
