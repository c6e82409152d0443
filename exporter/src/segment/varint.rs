//! Variable-length integers: seven bits a byte, lowest first, the top bit set on all but the last.

/// Longest encoding of a `u64`, in bytes.
pub(super) const MAX_VARINT_BYTES: usize = 10;

/// Appends `value`.
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed difference, given as the wrapped result of a subtraction, so that small ones of
/// either sign are short.
pub(super) fn put_difference(out: &mut Vec<u8>, wrapped: u64) {
    let signed = wrapped as i64;
    put(out, ((signed << 1) ^ (signed >> 63)) as u64);
}

/// Takes a value off the front of `bytes`; `None` if it is cut or does not fit.
pub(super) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(MAX_VARINT_BYTES).enumerate() {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte holds the one bit that is left.
        if i == MAX_VARINT_BYTES - 1 && bits > 1 {
            return None;
        }
        value |= bits << (7 * i);
        if byte & 0x80 == 0 {
            *bytes = &bytes[i + 1..];
            return Some(value);
        }
    }
    None
}

/// Takes what [`put_difference`] wrote.
pub(super) fn take_difference(bytes: &mut &[u8]) -> Option<u64> {
    let zigzag = take(bytes)?;
    Some((zigzag >> 1) ^ (zigzag & 1).wrapping_neg())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_was_put_is_taken(value: u64, shift in 0u32..64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            put_difference(&mut bytes, value);
            let mut rest = &bytes[..];
            prop_assert_eq!(take(&mut rest), Some(value));
            prop_assert_eq!(take_difference(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn small_differences_are_one_byte() {
        for difference in [0i64, 1, -1, 63, -64] {
            let mut bytes = Vec::new();
            put_difference(&mut bytes, difference as u64);
            assert_eq!(bytes.len(), 1, "{difference}");
        }
    }

    #[test]
    fn a_cut_or_oversized_varint_is_refused() {
        assert_eq!(take(&mut &[][..]), None);
        assert_eq!(take(&mut &[0x80][..]), None);
        let mut too_large = [0xff; MAX_VARINT_BYTES];
        too_large[MAX_VARINT_BYTES - 1] = 2;
        assert_eq!(take(&mut &too_large[..]), None);
        assert_eq!(take(&mut &[0xff; 11][..]), None);
    }
}
