"""Names of ZIP members that do not state their encoding."""

import re
import struct
import zipfile
import zlib
from collections.abc import Sequence

_UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075  # Info-ZIP's extra field: version, CRC-32 of the name, the name in UTF-8
# Code pages of East Asian Windows, the likeliest first: a codec and the first bytes of its frequent characters (the
# first level of ideographs, or the Hangul syllables), and what else is frequent.
_EAST_ASIAN = {
    "cp949": ("euc_kr", 0xB0, 0xC8, ""),
    "gb18030": ("gb2312", 0xB0, 0xD7, ""),
    "cp932": ("shift_jis", 0x88, 0x97, "\u3005\u3041-\u3096\u30a1-\u30fc"),  # kana
    "big5": ("big5", 0xA4, 0xC6, ""),
}
_CYRILLIC = ("cp866", "cp1251")
_WESTERN = ("cp437", "cp850")
_CYRILLIC_WORD = re.compile("[\u0410-\u042f\u0401]?[\u0430-\u044f\u0451]+|[\u0410-\u042f\u0401]+")
_WESTERN_LETTERS = frozenset("äöüÄÖÜßéèêëÉàâáãåÅÀçÇñÑíîïìóôòõøØúûùæÆ°µ²")
_WESTERN_WEIGHT = 0.95  # Other scripts use the bytes of these letters, too.


def member_names(members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Decode the names of the members of one archive.

    A name that does not state its encoding is UTF-8 if all such names of the archive are. Otherwise the code page is
    chosen in which the largest share of their characters beyond ASCII is frequent in one language. The choice can be
    wrong for an archive with few and short names; the content is not affected.

    Args:
        members: Entries as `zipfile.ZipFile.infolist` returns them, read without `metadata_encoding`.

    Returns:
        The name of each member.
    """
    names = [_stated_name(member) for member in members]
    # Without the flag, zipfile decodes by code page 437, which maps every byte.
    unstated = {
        index: member.orig_filename.encode("cp437")
        for index, (member, name) in enumerate(zip(members, names, strict=True))
        if name is None
    }
    encoding = _likely_encoding(b"\n".join(dict.fromkeys(unstated.values())))
    for index, content in unstated.items():
        names[index] = content.decode(encoding, "replace")
    return [(name or "").partition("\0")[0] for name in names]


def _stated_name(member: zipfile.ZipInfo) -> str | None:
    """Return the name of a member if the archive states its encoding."""
    if member.flag_bits & _UTF8_FLAG or member.orig_filename.isascii():
        return member.orig_filename
    extra = member.extra
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and field[1:5] == zlib.crc32(member.orig_filename.encode("cp437")).to_bytes(
            4, "little"
        ):
            try:
                return field[5:].decode()
            except UnicodeDecodeError:
                return None
    return None


def _likely_encoding(names: bytes) -> str:
    """Return UTF-8 if names are that, or the likeliest code page."""
    shares = {}
    for encoding in ("utf-8", *_EAST_ASIAN, *_CYRILLIC, *_WESTERN):
        try:
            text = names.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8":
            return encoding
        shares[encoding] = _frequent_share(text, encoding)
    return max(shares, key=shares.__getitem__)  # the first of equal ones


def _frequent_share(text: str, encoding: str) -> float:
    """Return the share in [0, 1] of the characters beyond ASCII that are frequent in the languages of a code page."""
    characters = [character for character in text if not character.isascii()]
    if encoding in _CYRILLIC:
        # A capital within a word is a sign of the wrong page.
        frequent = sum(len(word) for word in _CYRILLIC_WORD.findall(text) if len(word) > 1)
    elif encoding in _WESTERN:
        frequent = _WESTERN_WEIGHT * sum(character in _WESTERN_LETTERS for character in characters)
    else:
        codec, first, last, others = _EAST_ASIAN[encoding]
        pattern = re.compile(f"[{others}]") if others else None
        frequent = 0
        for character in characters:
            encoded = character.encode(codec, "ignore")
            in_range = len(encoded) == 2 and first <= encoded[0] <= last
            frequent += in_range or bool(pattern and pattern.match(character))
    return frequent / max(1, len(characters))
