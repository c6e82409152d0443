//! Base64 as protobuf's JSON uses it: written in the standard alphabet with padding, read in the
//! standard or the URL-safe alphabet, padded or not.

pub(super) use spanring_exporter::render::base64 as encode;

/// Decodes `text`; says what is wrong with it otherwise.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    if padding > 2 || (padding > 0 && !text.len().is_multiple_of(4)) || digits.len() % 4 == 1 {
        return Err(format!("{} digits and {padding} `=` are no base64", digits.len()));
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0u32, 0);
    for (at, digit) in digits.bytes().enumerate() {
        let sextet = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return Err(format!("byte {} is no base64 digit", at + 1)),
        };
        bits = bits << 6 | u32::from(sextet);
        held += 6;
        if held >= 8 {
            held -= 8;
            // The low eight bits above what is held back; the cast cuts off what was taken before.
            bytes.push((bits >> held) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of RFC 4648, section 10.
    const VECTORS: [(&str, &str); 7] = [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ];

    #[test]
    fn the_rfc_vectors_encode_and_decode_padded_or_not() {
        for (plain, coded) in VECTORS {
            assert_eq!(encode(plain.as_bytes()), coded);
            assert_eq!(decode(coded).as_deref(), Ok(plain.as_bytes()));
            assert_eq!(decode(coded.trim_end_matches('=')).as_deref(), Ok(plain.as_bytes()));
        }
    }

    #[test]
    fn every_byte_survives_and_both_alphabets_are_read() {
        let all: Vec<u8> = (0..=255).collect();
        let coded = encode(&all);
        assert_eq!(decode(&coded).as_ref(), Ok(&all));
        assert_eq!(decode(&coded.replace('+', "-").replace('/', "_")), Ok(all));
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for bad in ["A", "AAAAA", "Zg=", "Zg===", "====", "Zg==Zg==", "Z g=", "Zgé="] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }
}
