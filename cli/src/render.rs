//! Spans for the eyes: as text, one block a span, and a trace as a waterfall.

mod text;
mod waterfall;

pub use text::write_span;
pub use waterfall::{Waterfall, write_waterfall};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// `text` cut or padded to `width` columns of a terminal, the last of which is a space.
pub(crate) fn fitted(text: &str, width: usize) -> String {
    let room = width.saturating_sub(1);
    let mut shown = String::with_capacity(width);
    let mut taken = 0;
    if text.width() <= room {
        shown.push_str(text);
        taken = text.width();
    } else {
        for letter in text.chars() {
            let columns = letter.width().unwrap_or(0);
            if taken + columns + 1 > room {
                break;
            }
            shown.push(letter);
            taken += columns;
        }
        if taken < room {
            shown.push('…');
            taken += 1;
        }
    }
    shown.extend(std::iter::repeat_n(' ', width.saturating_sub(taken)));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_fitted_by_columns() {
        assert_eq!(fitted("abc", 5), "abc  ");
        assert_eq!(fitted("abcd", 5), "abcd ");
        assert_eq!(fitted("abcde", 5), "abc… ");
        assert_eq!(fitted("漢字漢字", 6), "漢字… ");
        assert_eq!(fitted("漢字漢字", 5), "漢…  ");
        assert_eq!(fitted("abc", 0), "");
    }
}
