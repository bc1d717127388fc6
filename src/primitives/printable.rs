//! Text from clients and servers, made safe to show on a terminal.

/// Replaces a character with a question mark if it could change how a terminal displays the text around
/// it. Such characters are control characters, line separators and the Unicode marks that change the
/// direction of text.
pub(crate) fn printable(c: char) -> char {
    let changes_direction = matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}'
        | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || changes_direction {
        '?'
    } else {
        c
    }
}
