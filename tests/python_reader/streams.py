"""The four streams of a batch's content: ids, bits, symbols and text ("Integers and numbers" and "Content"
of docs/batch-format.md).

Invariant: nothing is read behind a stream's end, and what is to be kept is charged against MEMORY_BYTES_MAX
before it is made, so that no content can ask for more.
"""

MASK_64 = (1 << 64) - 1
MEMORY_BYTES_MAX = 192 << 20


class FormatError(Exception):
    """What is wrong with a file or a batch, and where."""

    def __init__(self, place, problem):
        super().__init__(f"{place}: {problem}")


class Bytes:
    """Bytes that are read from their beginning to their end; `name` is for errors."""

    def __init__(self, name, data):
        self.name = name
        self.data = data
        self.at = 0

    def error(self, problem):
        """An error at this place."""
        return FormatError(f"byte {self.at} of {self.name}", problem)

    def left(self):
        """How many bytes are left."""
        return len(self.data) - self.at

    def take(self, count):
        """The next `count` bytes."""
        if count > self.left():
            raise self.error(f"{count} bytes are asked for, {self.left()} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self):
        """The next byte, as a number."""
        return self.take(1)[0]

    def u64(self):
        """Eight bytes, the lowest first."""
        return int.from_bytes(self.take(8), "little")

    def varint(self, maximum=MASK_64):
        """A varint of at most `maximum`."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift == 70:
                raise self.error("a varint has more than 10 bytes")
        if value > maximum:
            raise self.error(f"{value}; at most {maximum} is possible here")
        return value

    def signed_varint(self):
        """A signed varint."""
        return unzigzag(self.varint())

    def utf8(self, count):
        """`count` bytes of UTF-8."""
        return decode_utf8(self.take(count), self)


class Streams:
    """The streams of one content."""

    def __init__(self, ids, bits, symbols, text):
        self.ids = Bytes("the stream ids", ids)
        self.symbols = Bytes("the stream symbols", symbols)
        self.text = Bytes("the stream text", text)
        self.bits = bits
        self.bit = 0
        self.memory_left = MEMORY_BYTES_MAX

    def charge(self, byte_count):
        """Counts what is about to be kept."""
        self.memory_left -= byte_count
        if self.memory_left < 0:
            raise self.symbols.error(f"the batch takes more than {MEMORY_BYTES_MAX} bytes")

    def error(self, problem):
        """An error at the present place of the stream symbols."""
        return self.symbols.error(problem)

    def byte(self, maximum=255):
        """A byte of at most `maximum`."""
        value = self.symbols.byte()
        if value > maximum:
            raise self.symbols.error(f"{value}; at most {maximum} is possible here")
        return value

    def varint(self, maximum=MASK_64):
        """A varint of at most `maximum`."""
        return self.symbols.varint(maximum)

    def signed_varint(self):
        """A signed varint."""
        return self.symbols.signed_varint()

    def count(self, what):
        """A varint that says how many of something follow, each of which takes a byte at least."""
        count = self.symbols.varint()
        if count > self.symbols.left():
            raise self.error(f"{count} {what}, but {self.symbols.left()} bytes are left")
        return count

    def base(self):
        """A base that is stated by itself."""
        return self.byte(64)

    def string_bytes(self):
        """A string's bytes."""
        return self.text.take(self.varint())

    def signed(self, base=0):
        """A signed number."""
        return self.signed_of(self.byte(), base)

    def unsigned(self, base=0):
        """An unsigned number."""
        return self.unsigned_of(self.byte(), base)

    def signed_of(self, symbol, base):
        """A signed number whose symbol has been read."""
        if symbol >= 130:
            number_class = symbol - 129
            if number_class > 64:
                raise self.error(f"{symbol} is no symbol")
            value = -self._magnitude(number_class)
        else:
            value = self.unsigned_of(symbol, base)
        if not -(1 << 63) <= value < 1 << 63:
            raise self.error(f"{value} has more than 64 bits")
        return value

    def unsigned_of(self, symbol, base):
        """An unsigned number whose symbol has been read."""
        number_class = base + unzigzag(symbol)
        if symbol > 128 or not 0 <= number_class <= 64:
            raise self.error(f"{symbol} is no symbol of an unsigned number with the base {base}")
        return self._magnitude(number_class)

    def _magnitude(self, number_class):
        if number_class < 2:
            return number_class
        return 1 << (number_class - 1) | self._take_bits(number_class - 1)

    def _take_bits(self, count):
        end = self.bit + count
        if end > 8 * len(self.bits):
            raise FormatError(f"bit {self.bit} of the stream bits", f"{count} bits are asked for")
        part = int.from_bytes(self.bits[self.bit >> 3 : (end + 7) >> 3], "little")
        value = part >> (self.bit & 7) & ((1 << count) - 1)
        self.bit = end
        return value

    def finish(self):
        """Makes sure that all streams are used up."""
        for stream in (self.ids, self.symbols, self.text):
            if stream.left():
                raise stream.error(f"{stream.left()} bytes are left over")
        padding = 8 * len(self.bits) - self.bit
        if padding >= 8 or self._take_bits(padding):
            raise FormatError(f"bit {self.bit} of the stream bits", f"{padding} bits are left over")


def unzigzag(value):
    """0, 1, 2, 3, 4 … as 0, −1, 1, −2, 2 …"""
    return -(value >> 1) - 1 if value & 1 else value >> 1


def decode_utf8(data, place):
    """UTF-8 as text; `place` is where it stands."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise place.error(f"this is no UTF-8: {error}") from None
